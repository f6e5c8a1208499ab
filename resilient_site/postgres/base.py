"""Django's database backend for PostgreSQL, with waits that always end.

A server that hangs (stopped, its disk or network gone) answers nothing, and neither its
own timeouts nor those of TCP end the wait of a client in reasonable time. Here each
wait ends at the deadline of the request, when the client has gone, or when the
`heartbeat` of the server is lost: the request then gets 503 or a stale response. The
connection is closed, and the server ends what it did for it
(client_connection_check_interval). Whether a commit that was under way was made is
unknown: `CommitUnknown`.
"""

from types import SimpleNamespace
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError
from django.db.backends.postgresql import base

from resilient_site.edge.cache.invalidation import invalidate_pending
from resilient_site.postgres.connection import (
    CancellableConnection,
    CommitUnknown,
    WaitCancelled,
)
from resilient_site.postgres.heartbeat import heartbeat
from resilient_site.resilience import breakers, deadlines
from resilient_site.resilience.breakers import State


class Connection(CancellableConnection):
    """Connection that also stops waiting when the circuit breaker opens."""

    @classmethod
    def check(cls) -> None:
        if breakers.database.state is State.OPEN:
            raise WaitCancelled("The circuit breaker for the database is open.")
        super().check()


class DatabaseWrapper(base.DatabaseWrapper):
    # psycopg with such connections.
    Database: Any = SimpleNamespace(**vars(psycopg) | {"connect": Connection.connect})

    def get_connection_params(self) -> dict[str, Any]:
        """Return them; in a request a read outside a transaction waits as a reader."""
        params: dict[str, Any] = super().get_connection_params()
        if deadlines.lock_wait_s() != deadlines.LOCK_WAIT_S:
            limit = f" -c lock_timeout={settings.LOCK_WAITS_S['read'] * 1000:.0f}"
            params["options"] = params.get("options", "") + limit
        return params

    def is_usable(self) -> bool:
        """Return whether the socket is quiet, without a query.

        A server sends nothing to an idle client but a farewell, and its end makes the
        socket readable as well. What is older than a loss of the heartbeat may be lost,
        too, and nothing would show it.
        """
        if self.connection is None or self.connection.closed:
            return False
        if self.connection.opened_at < heartbeat.lost_at:
            return False
        return bool(self.connection.is_quiet(0))

    def _commit(self) -> None:
        try:
            super()._commit()  # type: ignore[misc]
        except DatabaseError as error:
            if self.connection is not None and self.connection.closed:
                invalidate_pending()
                # Otherwise Django reconnects, and raises only the error of that.
                self.closed_in_transaction = True
                raise CommitUnknown(*error.args) from error
            raise
