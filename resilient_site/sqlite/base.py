"""Django's database backend for SQLite, with waits for a lock by class of request."""

from typing import Any

from django.db.backends.sqlite3 import base

from resilient_site.resilience import deadlines


class DatabaseWrapper(base.DatabaseWrapper):
    _lock_wait_s = 0.0

    def get_connection_params(self) -> dict[str, Any]:
        self._lock_wait_s = deadlines.lock_wait_s()
        params: dict[str, Any] = super().get_connection_params()
        return params | {"timeout": self._lock_wait_s}

    def create_cursor(self, name: str | None = None) -> Any:
        wait_s = deadlines.lock_wait_s()
        if wait_s != self._lock_wait_s:
            self.connection.execute(f"PRAGMA busy_timeout = {wait_s * 1000:.0f}")
            self._lock_wait_s = wait_s
        return super().create_cursor(name)
