"""Sessions in the cache and the database."""

from typing import Any

from django.contrib.sessions.backends import cached_db


class SessionStore(cached_db.SessionStore):
    def load(self) -> dict[str, Any]:
        # A cookie can hold a null character, which PostgreSQL does not take.
        if not (self.session_key or "").isalnum():
            self._session_key = None
        return super().load() if self.session_key else {}
