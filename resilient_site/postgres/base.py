"""Django's database backend for PostgreSQL, with waits that always end.

A server that hangs (stopped, its disk or network gone) answers nothing, and neither its
own timeouts nor those of TCP end the wait of a client in reasonable time. Here each
wait ends at the deadline of the request, when the client has gone, or when the
`heartbeat` of the server is lost: the request then gets 503 or a stale response. The
connection is closed, and the server ends what it did for it
(client_connection_check_interval). Whether a commit that was under way was made is
unknown: `CommitUnknown`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.backends.postgresql import base

from resilient_site.edge.cache.invalidation import invalidate_pending
from resilient_site.postgres.connection import (
    CancellableConnection,
    CommitUnknown,
    ConnectionLost,
    WaitCancelled,
)
from resilient_site.postgres.heartbeat import heartbeat
from resilient_site.resilience import breakers, deadlines
from resilient_site.resilience.breakers import State

# PostgreSQL, appendix A: a server that is a standby now, and ended connections.
READ_ONLY = "25006"
BROKEN = ("57P01", "57P02", "57P03", "08")


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

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute_wrappers.append(self._execute)

    def _execute(
        self,
        execute: Callable[..., Any],
        sql: Any,
        params: Any,
        many: bool,
        context: Any,
    ) -> Any:
        """Execute a statement; close the connection if it is of no use any more.

        In a request it is executed once more, on a new connection, if nothing can have
        been written: a query outside a transaction, or a write that was refused.
        """
        is_alone = not self.in_atomic_block and self.get_autocommit()
        is_query = str(sql).lstrip().startswith(("SELECT", "EXPLAIN"))
        is_commit = is_alone and not is_query
        try:
            with heartbeat.watching_commit() if is_commit else nullcontext():
                return execute(sql, params, many, context)
        except (DatabaseError, InterfaceError) as error:
            state = getattr(error.__cause__, "sqlstate", None) or ""
            driver = self.connection
            is_refused = state == READ_ONLY
            if driver is None or not (
                is_refused or driver.closed or state.startswith(BROKEN)
            ):
                raise
            if is_refused and not heartbeat.distrust(driver.opened_at):
                raise  # a new one would not do either
            driver.close()
            may_repeat = self._may_repeat(context["cursor"].cursor)
            if may_repeat:  # else it was logged before
                breakers.database.degrade(error)
            if is_commit and not state:
                raise CommitUnknown(*error.args) from error.__cause__
            if not (is_alone and (is_query or is_refused) and may_repeat):
                raise ConnectionLost(*error.args) from error.__cause__
        self.close()
        self.connect()
        own = type(context["cursor"].cursor) is psycopg.Cursor
        cursor = psycopg.Cursor(self.connection) if own else self.create_cursor()
        context["cursor"].cursor = cursor
        return execute(sql, params, many, context)

    @staticmethod
    def _may_repeat(cursor: Any) -> bool:
        """Return whether this is a request, which has no state in a connection."""
        is_request = deadlines.current.get() is not None
        is_open = breakers.database.state is State.OPEN
        is_streamed = isinstance(cursor, psycopg.ServerCursor)
        return not (is_open or is_streamed or deadlines.is_expired()) and is_request

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

    def _set_autocommit(self, autocommit: bool) -> None:
        is_request = deadlines.current.get() is not None
        if not autocommit and is_request and heartbeat.commits_hang:
            raise OperationalError from WaitCancelled("Another commit hangs.")
        super()._set_autocommit(autocommit)  # type: ignore[misc]

    def _commit(self) -> None:
        try:
            with heartbeat.watching_commit():
                super()._commit()  # type: ignore[misc]
        except DatabaseError as error:
            if self.connection is not None and self.connection.closed:
                invalidate_pending()
                # Otherwise Django reconnects, and raises only the error of that.
                self.closed_in_transaction = True
                raise CommitUnknown(*error.args) from error.__cause__
            raise
