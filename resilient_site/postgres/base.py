"""Django's database backend for PostgreSQL, with waits that always end.

A server that hangs (stopped, its disk or network gone) answers nothing, and neither its
own timeouts nor those of TCP end the wait of a client in reasonable time. Here each
wait ends at the deadline of the request, when the client has gone, or when the
`heartbeat` of the server is lost: the request then gets 503 or a stale response. The
connection is closed, and the server ends what it did for it
(client_connection_check_interval). Whether a commit that was under way was made is
unknown: `CommitUnknown`. What fails on a replica is repeated on the primary.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
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
from resilient_site.postgres.replicas import execute_on_primary, replicas
from resilient_site.resilience import breakers, deadlines
from resilient_site.resilience.breakers import Breaker, State

# PostgreSQL, appendix A: a server that is a standby now, and ended connections.
READ_ONLY = "25006"
BROKEN = ("57P01", "57P02", "57P03", "08")


class Connection(CancellableConnection):
    """Connection that also stops waiting when the circuit breaker opens."""

    breaker = breakers.database

    @classmethod
    def check(cls) -> None:
        if cls.breaker.state is State.OPEN:
            raise WaitCancelled(f"The breaker for the {cls.breaker.name} is open.")
        super().check()


@cache
def driver_of(breaker: Breaker) -> Any:
    """Return psycopg with connections that this breaker ends."""
    connection: Any = type("Connection", (Connection,), {"breaker": breaker})
    return SimpleNamespace(**vars(psycopg) | {"connect": connection.connect})


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        replica = replicas().get(self.alias)
        self.heartbeat = replica or heartbeat
        self.Database: Any = driver_of(self.heartbeat.breaker)
        run = self._execute_on_replica if replica else self._execute
        self.execute_wrappers.append(run)

    def _execute_on_replica(
        self,
        execute: Callable[..., Any],
        sql: Any,
        params: Any,
        many: bool,
        context: Any,
    ) -> Any:
        """Execute a query; if that fails, on the primary, unless it took too long."""
        try:
            return execute(sql, params, many, context)
        except (DatabaseError, InterfaceError) as error:
            is_streamed = isinstance(context["cursor"].cursor, psycopg.ServerCursor)
            is_slow = isinstance(error.__cause__, psycopg.errors.QueryCanceled)
            if self.connection is not None and self.connection.closed:
                self.close()
            if is_streamed or is_slow or many or deadlines.is_expired():
                raise
        return execute_on_primary(context, sql, params)

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

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler gives each transaction another session (PgBouncer)."""
        return "DIRECT" in self.settings_dict

    def get_connection_params(self) -> dict[str, Any]:
        """Return them; in a request a read outside a transaction waits as a reader."""
        params: dict[str, Any] = super().get_connection_params()
        is_other = deadlines.lock_wait_s() != deadlines.LOCK_WAIT_S
        if is_other and not self.is_pooled:
            limit = f" -c lock_timeout={settings.LOCK_WAITS_S['read'] * 1000:.0f}"
            params["options"] = params.get("options", "") + limit
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        connection.is_pooled = self.is_pooled
        return connection

    def chunked_cursor(self) -> Any:
        """Return a cursor of the server, which a pooler has in a transaction alone."""
        if self.is_pooled and not self.in_atomic_block:
            return self.cursor()
        return super().chunked_cursor()

    def is_usable(self) -> bool:
        """Return whether the socket is quiet, without a query.

        A server sends nothing to an idle client but a farewell, and its end makes the
        socket readable as well. What is older than a loss of the heartbeat may be lost,
        too, and nothing would show it.
        """
        if self.connection is None or self.connection.closed:
            return False
        if self.connection.opened_at < self.heartbeat.lost_at:
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
