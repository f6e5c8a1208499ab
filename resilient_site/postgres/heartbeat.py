"""Heartbeats of the database: threads that find out whether its servers answer.

One runs a short query again and again on a connection of its own. Without an answer in
time it opens the circuit breaker: requests that wait for the server end with 503 or a
stale response, and new ones do not ask it. The first answer closes the breaker. In time
means within HEARTBEAT_TIMEOUT_S, or `TRIPS` of the round trips seen lately, as a server
may be far away. Time in which this process got no processor does not count.

That of the primary also finds out that the server has become read-only, as the one does
that was the primary before a failover: connections to it are then replaced. A server
may answer this query and no commit (its synchronous standby is gone, say): commits
under way are counted, and while one hangs no other begins. For the replicas it records
what had been committed at which moment.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from resilient_site.postgres.connection import CancellableConnection, WaitCancelled
from resilient_site.resilience import breakers, deadlines
from resilient_site.resilience.breakers import Breaker

logger = logging.getLogger(__name__)

PERIOD_S = 0.2
TRIPS = 4
TIMEOUT_MAX_S = 5.0
COMMIT_MAX_S = 2.0
# Weight of the latest round trip in the average.
WEIGHT = 0.2
# Connections are not replaced again within this time: new ones are no better.
REPLACED_EVERY_S = 1.0
# Longer than the wait between two checks of a connection.
CHECKED_WITHIN_S = 0.15
# "Too many clients": those that are connected are served.
TOO_MANY_CONNECTIONS = "53300"
# Positions that are remembered, for replicas that are behind: over three minutes.
POSITIONS_MAX = 1_000
READ_ONLY = "SHOW transaction_read_only"
# With the end of the log and its timeline. Where commits do not wait for the log, its
# end says nothing about what was committed.
READ_ONLY_AND_POSITION = """
    SELECT current_setting('transaction_read_only'),
        CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_commit') <>
            'off' THEN (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END,
        CASE WHEN NOT pg_is_in_recovery() THEN
            left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END
"""


class Patience:
    """Limit on the time that a thread waits, without what it is kept from running."""

    def __init__(self, seconds: float) -> None:
        self._left_s, self._checked_at = seconds, time.monotonic()

    def is_over(self) -> bool:
        now = time.monotonic()
        self._left_s -= min(now - self._checked_at, CHECKED_WITHIN_S)
        self._checked_at = now
        return self._left_s <= 0


class Heartbeat:
    """Heartbeat of one server, which trips and resets its circuit breaker."""

    def __init__(self, alias: str, breaker: Breaker) -> None:
        self.alias, self.breaker = alias, breaker
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: CancellableConnection | None = None
        self._round_trip_s = 0.0
        self._connect_timeout_s = 0.0
        self.lost_at = 0.0  # of the monotonic clock

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        self._stopping.clear()
        name = "heartbeat" if self.alias == DEFAULT_DB_ALIAS else f"beat-{self.alias}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join()

    @property
    def timeout_s(self) -> float:
        """How long an answer may take where the server is not far away."""
        return float(settings.HEARTBEAT_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            self._pause()
        self._close()

    def _pause(self) -> None:
        self._stopping.wait(PERIOD_S)

    def _beat(self) -> None:
        had_connection = self._connection is not None
        try:
            self._query()
        except psycopg.Error as error:
            self._close()
            if had_connection:
                self.lost_at = time.monotonic()
            if had_connection and not isinstance(error, WaitCancelled):
                return self._beat()  # the server may have restarted
            if error.sqlstate != TOO_MANY_CONNECTIONS:
                self.breaker.trip(error)
        except Exception as error:  # noqa: BLE001 - no file or thread is left, say
            # Without this thread the breaker would stay as it is. Those that are
            # connected are served, as with too many connections.
            self._close()
            logger.warning("The heartbeat of %s failed: %r", self.alias, error)
        else:
            self.breaker.reset()

    def _query(self) -> None:
        raise NotImplementedError

    def _ask(self, question: str) -> tuple[Any, ...]:
        """Return the only row of the answer; connect for it if need be."""
        if self._connection is None:
            self._connection = self._connect()
        began = time.monotonic()
        with self._in_time(TRIPS * self._round_trip_s):
            row = self._connection.execute(question).fetchone()
        took_s = time.monotonic() - began
        weight = WEIGHT if self._round_trip_s else 1.0
        self._round_trip_s += weight * (took_s - self._round_trip_s)
        return row or ()

    def _connect(self) -> CancellableConnection:
        """Connect, in more time than the last time if that was not enough."""
        params = connections[self.alias].get_connection_params() | {"autocommit": True}
        began = time.monotonic()
        try:
            with self._in_time(self._connect_timeout_s):
                made = CancellableConnection.connect(**params)
        except WaitCancelled:
            self._connect_timeout_s = 2 * (time.monotonic() - began)
            raise
        self._connect_timeout_s = 2 * (time.monotonic() - began)
        return made

    def _in_time(self, seconds: float) -> AbstractContextManager[None]:
        limit_s = min(max(self.timeout_s, seconds), TIMEOUT_MAX_S)
        return deadlines.until(Patience(limit_s).is_over)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Position(NamedTuple):
    """End of the primary's log, which has all that was committed before `moment`."""

    moment: int  # of time.monotonic_ns
    lsn: int


class PrimaryHeartbeat(Heartbeat):
    def __init__(self) -> None:
        super().__init__(DEFAULT_DB_ALIAS, breakers.database)
        self.is_read_only = False
        # When each commit under way began, by thread.
        self._commits: dict[int, float] = {}
        # Of the present timeline, the latest last; with replicas only.
        self.positions: deque[Position] = deque(maxlen=POSITIONS_MAX)
        self.timeline = 0
        self.has_position = threading.Condition()

    @contextmanager
    def watching_commit(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._commits[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._commits[thread]

    @property
    def commits_hang(self) -> bool:
        """Whether a commit of this process waits for longer than any should."""
        now = time.monotonic()
        return any(now - at > COMMIT_MAX_S for at in tuple(self._commits.values()))

    def distrust(self, opened_at: float) -> bool:
        """Have connections replaced after the failure of one that was opened then.

        Return False if that has just been done, so that all stay.
        """
        now = time.monotonic()
        if opened_at >= self.lost_at:  # else that was done already
            if now - self.lost_at < REPLACED_EVERY_S:
                return False
            self.lost_at = now
        return True

    def _query(self) -> None:
        moment = time.monotonic_ns()
        if settings.DATABASE_REPLICAS:
            read_only, lsn, timeline = self._ask(READ_ONLY_AND_POSITION)
            self._record(moment, lsn, timeline)
        else:
            (read_only,) = self._ask(READ_ONLY)
        self.is_read_only = read_only == "on"
        connection = self._connection
        if self.is_read_only and connection and self.distrust(connection.opened_at):
            self._close()
            self._query()

    def _record(self, moment: int, lsn: int | None, timeline: str | None) -> None:
        """Record a position; those of another timeline, or of a longer log, go."""
        if lsn is None or timeline is None:
            return
        known, number = self.positions, int(timeline, 16)
        if number != self.timeline or (known and lsn < known[-1].lsn):
            self.positions = deque(maxlen=POSITIONS_MAX)
        self.timeline = number
        self.positions.append(Position(moment, lsn))
        with self.has_position:
            self.has_position.notify_all()


heartbeat = PrimaryHeartbeat()
