"""Cancellable connections to PostgreSQL: a wait for the server checks the deadline.

A network can lose a connection and tell neither side, so that a wait would never end.
A wait without a byte for `ASK_AFTER_S` therefore asks the server on another connection,
one at a time, whether it works on this one. If it does not, the connection is closed.

The look-up of the server's host name can be cancelled, too; while the resolver does not
answer, the last addresses of the name are used. A look-up that hangs keeps its thread.

Of several hosts the last one that could be used is tried first, and next time the one
after that if it is silent: libpq would begin with the first host of the list each time,
and wait for it for longer than a request may take, when a standby has long replaced it.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from django.db import OperationalError
from psycopg import generators
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import ExecStatus, TransactionStatus

from resilient_site.resilience import deadlines

CHECK_INTERVAL_S = 0.05
ASK_AFTER_S = 2.0
# Enough for a connection to a server that is half a second away.
ASK_TIMEOUT_S = 5.0
# An answer that is on its way has arrived by then.
ARRIVAL_MS = 250
# The pid by which the server knows the connection that asks, and whether it is at work
# on another one: not if it waits for the client, as the client does for it. An event
# is seen without `track_activities`, unlike a state; what may not be seen is at work.
IS_AT_WORK = """
    SELECT pg_backend_pid(), other.pid IS NOT NULL
        AND coalesce(other.wait_event, '') NOT IN ('ClientRead', 'ClientWrite')
    FROM (SELECT %s::int AS pid) AS asked
    LEFT JOIN pg_stat_activity AS other USING (pid)
"""
# With one of these only one host can be used at a time.
OF_A_PRIMARY = ("read-write", "primary")
# Held by the one that asks: a slow server does not get twice the connections.
_asking = threading.Lock()


class WaitCancelled(psycopg.OperationalError):
    """The server did not answer in time, and the connection is closed."""


class CommitUnknown(OperationalError):
    """The connection broke during the commit, which may have been made or not."""


class ConnectionLost(OperationalError):
    """The connection broke, or its server takes no writes any more.

    It is closed, a new one may do, and nothing was written on it.
    """


class CancellableConnection(psycopg.Connection[Any]):
    """Connection that waits until the deadline; psycopg's own waits for ever."""

    opened_at = 0.0
    # Its several hosts, if there are any, as they were given.
    _places: dict[str, Any] = {}
    # Whether the session is another one in each transaction.
    is_pooled = False

    @classmethod
    def check(cls) -> None:
        """Raise WaitCancelled if the wait has to end."""
        if deadlines.is_expired():
            raise WaitCancelled("The deadline of the request has passed.")

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        host = str(options.get("host") or "")
        if "," in host and "hostaddr" not in options:
            return cls._connect_to_one(conninfo, options)
        # A path is left to psycopg.
        if host and "/" not in host and "hostaddr" not in options:
            addresses = cls._addresses(host)
            options["host"] = ",".join([host] * len(addresses))
            options["hostaddr"] = ",".join(addresses)
        made = super().connect(conninfo, **options)
        made.opened_at = time.monotonic()
        return made

    @classmethod
    def _connect_to_one(cls, conninfo: str, options: dict[str, Any]) -> Self:
        """Connect to the first of several hosts that can be used."""
        cls.check()
        hosts = str(options["host"]).split(",")
        ports = str(options.get("port") or "").split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        if len(ports) != len(hosts):
            message = f"There are {len(hosts)} hosts and {len(ports)} ports."
            raise psycopg.OperationalError(message)
        places = tuple(zip(hosts, ports, strict=True))
        first = _first_places.get(places, 0)
        failure = psycopg.OperationalError()
        for number in (*range(first, len(places)), *range(first)):
            place = dict(zip(("host", "port"), places[number], strict=True))
            try:
                made = cls.connect(conninfo, **options | place)
            except WaitCancelled:
                # Unless another thread has found one meanwhile.
                if _first_places.get(places, 0) == number:
                    _first_places[places] = (number + 1) % len(places)
                raise
            except psycopg.OperationalError as error:
                failure = error
            else:
                _first_places[places] = number
                made._places = {name: options.get(name) for name in place}
                return made
        raise failure

    @classmethod
    def _addresses(cls, host: str) -> list[str]:
        looking_up = _look_up(host)
        while True:
            cls.check()
            try:
                return looking_up.result(CHECK_INTERVAL_S)
            except TimeoutError:
                if host in _known_addresses:
                    return _known_addresses[host]
            except (OSError, UnicodeError) as error:
                message = f"The host {host} could not be resolved: {error}"
                raise psycopg.OperationalError(message) from error

    def wait(
        self,
        gen: PQGen[Any],
        interval: float = CHECK_INTERVAL_S,
        timeout: float | None = None,
    ) -> Any:
        ask_at = time.monotonic() + ASK_AFTER_S

        def check() -> None:
            self.check()
            if time.monotonic() >= ask_at:
                with _turn_to_ask() as is_mine:
                    if is_mine and self._is_lost():
                        raise WaitCancelled("The network has lost the connection.")
                put_off()

        def put_off() -> None:
            nonlocal ask_at
            ask_at = time.monotonic() + ASK_AFTER_S

        try:
            waiting = _checked(gen, check, put_off)
            return super().wait(waiting, CHECK_INTERVAL_S, timeout)
        except WaitCancelled:
            # In the middle of a response: the connection cannot be used again.
            self.pgconn.finish()
            raise

    def _start_query(self) -> PQGen[None]:
        """Begin a transaction with the time limits of the request, in one trip."""
        wait_s = deadlines.lock_wait_s()
        is_idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        has_limits = wait_s == deadlines.LOCK_WAIT_S and not self.is_pooled
        if self._autocommit or not is_idle or has_limits:
            yield from super()._start_query()
            return
        limits = [f"SET LOCAL lock_timeout = {wait_s * 1000:.0f}"]
        if self.is_pooled:
            limit_ms = deadlines.STATEMENT_S * 1000
            limits += [f"SET LOCAL statement_timeout = {limit_ms:.0f}"]
        if self._pipeline:  # of many rows, whose statements are sent together anyway
            yield from super()._start_query()
            for limit in limits:
                yield from self._exec_command(limit.encode())
            return
        begin = self._get_tx_start_command().decode()
        self.pgconn.send_query("; ".join([begin, *limits]).encode())
        for result in (yield from generators.execute(self.pgconn)):
            if result.status != ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)

    def _is_lost(self) -> bool:
        """Return whether the server can be reached, but has nothing to do for this.

        Or another one of several hosts has become the primary.
        """
        options: dict[str, Any] = self.info.get_parameters()
        options |= {"password": self.info.password} | self._places
        if self._places:
            options.pop("hostaddr", None)
        pid = self.pgconn.backend_pid
        lost = self

        class Asking(type(self)):  # type: ignore[misc]
            @classmethod
            def check(cls) -> None:
                super().check()
                if not lost.is_quiet(0):
                    raise WaitCancelled("The answer has arrived meanwhile.")

        try:
            with (
                deadlines.within(ASK_TIMEOUT_S),
                Asking.connect(**options, autocommit=True) as other,
            ):
                here, there = self.info, other.info
                if (here.host, here.port) != (there.host, there.port):
                    return options.get("target_session_attrs") in OF_A_PRIMARY
                ((own_pid, is_at_work),) = other.execute(IS_AT_WORK, [pid]).fetchall()
                # A pooler in between gives connections pids of its own.
                knows_pids = own_pid == other.pgconn.backend_pid
        except psycopg.Error:
            return False  # unknown: it is asked again
        return knows_pids and not is_at_work and self.is_quiet(ARRIVAL_MS)

    def is_quiet(self, timeout_ms: int) -> bool:
        """Return whether nothing arrives at the socket within this time."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return not poll.poll(timeout_ms)

    def set_autocommit(self, value: bool) -> None:
        """Set it without psycopg's wait for a server that is not asked anything."""
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self._autocommit = bool(value)
        else:
            super().set_autocommit(value)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Any]:
        return _checked(super()._connect_gen(conninfo), cls.check)


@contextmanager
def _turn_to_ask() -> Iterator[bool]:
    is_mine = _asking.acquire(blocking=False)
    try:
        yield is_mine
    finally:
        if is_mine:
            _asking.release()


def _release_in_child() -> None:
    # Another thread of the parent may have held it; no thread of the child does.
    if _asking.locked():
        _asking.release()


os.register_at_fork(after_in_child=_release_in_child)


def _checked[W](
    gen: Generator[W, Any, Any],
    check: Callable[[], None],
    on_progress: Callable[[], None] = lambda: None,
) -> Generator[W, Any, Any]:
    """Run `gen`; call `check` at the start, and each time nothing was received."""
    check()
    try:
        wait = next(gen)
        while True:
            ready = yield wait
            if ready:
                on_progress()
            else:
                check()
            wait = gen.send(ready)
    except StopIteration as end:
        return end.value


# With which host the next connect begins, by all hosts and ports.
_first_places: dict[tuple[tuple[str, str], ...], int] = {}
_known_addresses: dict[str, list[str]] = {}
_look_ups: dict[tuple[str, int], Future[list[str]]] = {}


def _look_up(host: str) -> Future[list[str]]:
    """Look the name up in a thread, or return the look-up that is under way."""
    name = host, os.getpid()  # a forked process has no threads of its parent
    if (found := _look_ups.get(name)) is None:
        found = _look_ups[name] = Future()

        def run() -> None:
            try:
                rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                addresses = [str(address[0]) for *_, address in rows]
            except (OSError, UnicodeError) as error:
                _look_ups.pop(name, None)
                found.set_exception(error)
            else:
                _known_addresses[host] = addresses
                _look_ups.pop(name, None)
                found.set_result(addresses)

        try:
            threading.Thread(target=run, daemon=True).start()
        except RuntimeError as error:  # no thread is left; the next call tries again
            _look_ups.pop(name, None)
            found.set_exception(OSError(str(error)))
    return found
