"""Sessions in the database, and for a few seconds in the shared cache."""

from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends import db
from django.core.cache import caches

from resilient_site.resilience.cache_control import FRESH_S

# In the cache, for as long as a request may still read what the session was.
ENDED = "ended"


class SessionStore(db.SessionStore):
    """Asks the database every `FRESH_S`, as a machine without Redis deletes only there.

    In the cache a session is stored under a hash: its key would be the credential.
    """

    def load(self) -> dict[str, Any]:
        # A cookie can hold a null character, which PostgreSQL does not take.
        if not (self.session_key or "").isalnum():
            self._session_key = None
        if not self.session_key:
            return {}
        name = _cache_key(self.session_key)
        found: Any = self._cache.get(name)
        if found == ENDED:
            self._session_key = None
            return {}
        data: dict[str, Any] = super().load() if found is None else found
        if found is None and self.session_key:  # else there is no such session
            # Not in place of what was stored since: it may have ended.
            self._cache.add(name, data, FRESH_S)
        return data

    def save(self, must_create: bool = False) -> None:
        super().save(must_create)
        if self.session_key:
            data = dict(self.items())
            self._cache.set(_cache_key(self.session_key), data, FRESH_S)

    def delete(self, session_key: str | None = None) -> None:
        super().delete(session_key)
        if key := session_key or self.session_key:
            self._cache.set(_cache_key(key), ENDED, FRESH_S)

    @property
    def _cache(self) -> Any:
        return caches[settings.SESSION_CACHE_ALIAS]


def _cache_key(session_key: str) -> str:
    return "session:" + sha256(session_key.encode()).hexdigest()
