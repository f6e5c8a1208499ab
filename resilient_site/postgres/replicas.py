"""Replicas: streaming standbys of PostgreSQL that reads may go to.

A request chooses once, at its start, whether its reads go to a replica and to which;
`ReplicaRouter` follows. Sessions, tokens and permissions, and whatever writes or is in
a transaction, are the primary's. If the replica fails in the middle of the request, the
statement is repeated on the primary, and the rest of the request stays there.

How old a replica is does not depend on clocks: the heartbeat of the primary records the
end of its log with the moment before it asked (`Position`), and what has replayed that
end has all that was committed before that moment. No request goes to a replica of which
that moment (`as_of`) is before the last invalidation known here: so a change is seen by
the next request, whose client it is, as ever. The response carries `as_of` as its mark:
no machine that knows of a later change takes it from the shared cache as current.

Not handled: a change on another machine that is not known here (yet) may be missing for
up to DATABASE_REPLICA_MAX_LAG_S. A browser reads from the primary for that time after a
write of its own, and without Redis all authenticated clients do.
"""

import math
import random
from contextvars import ContextVar
from functools import cache
from typing import Any

import psycopg
from django.conf import settings
from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    InterfaceError,
    connections,
)

from resilient_site.edge.cache.invalidation import CHANGES, invalidations, mark, now
from resilient_site.postgres.connection import CHECK_INTERVAL_S
from resilient_site.postgres.heartbeat import PERIOD_S, Heartbeat, heartbeat
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker, State
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S

# The receiver of the log knows its timeline, which only members of pg_monitor may see.
# The last restart point has that of some minutes ago, after a failover at worst.
STATE = """
    SELECT pg_is_in_recovery(),
        CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END,
        (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint,
        (SELECT received_tli FROM pg_stat_wal_receiver),
        (SELECT timeline_id FROM pg_control_checkpoint())
"""


class Replica(Heartbeat):
    """A replica as its heartbeat has found it."""

    def __init__(self, alias: str) -> None:
        super().__init__(alias, Breaker(alias))
        # All that was committed before is there; 0: unknown.
        self.as_of = 0
        # Why it is not used although it answers.
        self.problem = "It was not asked yet."
        self.requests = 0
        self._received_timeline = 0

    @property
    def timeout_s(self) -> float:
        # With the pause before it, and until both waits are checked, no request waits
        # longer than for the primary.
        return max(super().timeout_s - PERIOD_S - 2 * CHECK_INTERVAL_S, PERIOD_S)

    @property
    def lag_s(self) -> float:
        """How long ago it was known to be complete; infinite if that is not known."""
        as_of = self.as_of
        return (now() - as_of) / 1e9 if as_of else math.inf

    @property
    def is_behind(self) -> bool:
        """Whether it was too far behind the primary when that was last seen."""
        known = heartbeat.positions
        last = known[-1].moment if known else math.inf
        return last - self.as_of > settings.DATABASE_REPLICA_MAX_LAG_S * 1e9

    def current_as_of(self) -> int:
        """Return its moment if it has every change that is known here, else 0."""
        as_of, at_least = self.as_of, now() - settings.DATABASE_REPLICA_MAX_LAG_S * 1e9
        is_closed = self.breaker.state is State.CLOSED
        is_current = invalidations.is_current(mark(as_of, [CHANGES]))
        return as_of if is_closed and as_of >= at_least and is_current else 0

    def stale_as_of(self) -> int:
        """Return its moment if it may stand in for the primary, else 0."""
        as_of, at_least = self.as_of, now() - STALE_IF_ERROR_S * 1_000_000_000
        is_closed = self.breaker.state is State.CLOSED
        is_usable = as_of > invalidations.voided_at and as_of >= at_least
        return as_of if is_closed and is_usable and not self.is_behind else 0

    def _pause(self) -> None:
        # It may have what the primary has just been asked about.
        with heartbeat.has_position:
            heartbeat.has_position.wait(PERIOD_S)

    def _query(self) -> None:
        is_standby, is_paused, replayed, received, checkpointed = self._ask(STATE)
        self._received_timeline = received or self._received_timeline
        timeline = self._received_timeline or checkpointed
        if not is_standby:
            self.problem = "It is no standby any more: it was promoted."
        elif is_paused:
            self.problem = "Its replay is paused."
        elif not heartbeat.timeline:
            self.problem = "The position of the primary is not known."
        elif timeline != heartbeat.timeline:
            self.problem = f"It follows timeline {timeline}, not {heartbeat.timeline}."
        else:
            self.problem = ""
        known = () if self.problem else reversed(tuple(heartbeat.positions))
        self.as_of = next((at for at, lsn in known if lsn <= replayed), 0)

    def _close(self) -> None:
        super()._close()
        self._received_timeline = 0  # another server may have its address next


@cache
def replicas() -> dict[str, Replica]:
    """Return the replicas of the settings by their aliases."""
    found = {alias: Replica(alias) for alias in settings.DATABASE_REPLICAS}
    breakers.of_replicas.extend(replica.breaker for replica in found.values())
    return found


_chosen: ContextVar[str] = ContextVar("replica", default=DEFAULT_DB_ALIAS)


def choose_replica(may_miss_change: bool) -> tuple[int, bool]:
    """Have the reads that follow in this thread go to a replica, if one is fit for it.

    None is if the client `may_miss_change` of its own, unless the primary is away: then
    it need not have the latest changes. Return the moment of which it is, 0 if none is,
    and whether what it gives is stale therefore.
    """
    is_away = breakers.database.state is State.OPEN
    known = replicas().values() if is_away or not may_miss_change else ()
    for replica in random.sample(list(known), len(known)):
        as_of = replica.stale_as_of() if is_away else replica.current_as_of()
        if as_of and _is_connected(replica.alias):
            replica.requests += 1
            _chosen.set(replica.alias)
            return as_of, is_away
    return 0, False


def leave_replica() -> None:
    """Have the reads that follow go to the primary."""
    _chosen.set(DEFAULT_DB_ALIAS)


def _is_connected(alias: str) -> bool:
    connection = connections[alias]
    try:
        connection.close_if_health_check_failed()
        connection.ensure_connection()
    except (DatabaseError, InterfaceError):
        return False
    return True


def read_alias() -> str:
    """Return the alias of the database that statements of the catalogue read from."""
    is_in_transaction = connections[DEFAULT_DB_ALIAS].in_atomic_block
    return DEFAULT_DB_ALIAS if is_in_transaction else _chosen.get()


class ReplicaRouter:
    def db_for_read(self, model: Any, **hints: Any) -> str:
        is_replicated = model._meta.app_label in settings.DATABASE_REPLICA_APPS
        return read_alias() if is_replicated else DEFAULT_DB_ALIAS

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return DEFAULT_DB_ALIAS

    def allow_relation(self, first: Any, second: Any, **hints: Any) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == DEFAULT_DB_ALIAS


def execute_on_primary(context: Any, sql: Any, params: Any) -> Any:
    """Execute on the primary what has failed on a replica, whose cursor goes on."""
    leave_replica()
    primary = connections[DEFAULT_DB_ALIAS]
    primary.close_if_health_check_failed()
    primary.ensure_connection()
    cursor = context["cursor"]
    own = type(cursor.cursor) is psycopg.Cursor
    cursor.cursor = (
        psycopg.Cursor(primary.connection) if own else primary.create_cursor()
    )
    return primary.make_cursor(cursor.cursor).execute(sql, params)
