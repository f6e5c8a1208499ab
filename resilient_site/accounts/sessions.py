"""Sessions in the cache and the database."""

from typing import Any

from django.contrib.sessions.backends import cached_db


class SessionStore(cached_db.SessionStore):
    def _validate_session_key(self, key: Any) -> bool:
        # A cookie can hold a null character, which PostgreSQL does not take.
        is_valid = super()._validate_session_key(key)  # type: ignore[misc]
        return bool(is_valid) and key.isalnum()
