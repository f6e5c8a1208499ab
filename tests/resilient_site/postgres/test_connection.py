"""Cancellable connections to PostgreSQL."""

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import dj_database_url
import psycopg
import pytest
from django.db import connection
from psycopg.pq import TransactionStatus

from resilient_site.postgres import connection as module
from resilient_site.postgres import heartbeat
from resilient_site.postgres.base import DatabaseWrapper
from resilient_site.postgres.connection import CancellableConnection, WaitCancelled
from resilient_site.resilience import deadlines
from resilient_site.resilience.breakers import Breaker, State
from tests.clock import Clock
from tests.faults.proxy import Proxy
from tests.private_server import wait_for

pytestmark = [
    pytest.mark.once,
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL"),
]


class Names:
    """The system's resolver, with one name under the control of the test."""

    def __init__(self) -> None:
        # A name for each test, as what was found is remembered.
        self.host = f"database-{uuid4()}.example"
        self.answers = threading.Event()
        self.found: list[Any] | OSError = []
        self._real = socket.getaddrinfo

    def look_up(self, host: str, *args: Any, **options: Any) -> list[Any]:
        if host != self.host:
            return self._real(host, *args, **options)
        assert self.answers.wait(90)
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


@pytest.fixture
def names(monkeypatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.answers.set()


def connect(names: Names) -> psycopg.Connection[Any]:
    to = {"host": names.host, "autocommit": True}
    options = connection.get_connection_params() | to
    return CancellableConnection.connect(**options)


def address_of_the_server() -> list[Any]:
    params = connection.get_connection_params()
    return socket.getaddrinfo(params["host"], params["port"], type=socket.SOCK_STREAM)


# With the user, password, port and name of the tests' own database.
URLS = [
    "postgres://{user}@127.0.0.1:{port}/{name}",
    "postgresql://{user}@localhost:{port}/{name}?sslmode=prefer",
    "postgres://{user}@{folder}:{port}/{name}",
    "postgres://{user}@/{name}?host={folder}&port={port}",
    "postgres://{user}@{folder},127.0.0.1:{port}/{name}",
    "postgres://{user}@unknown.invalid,localhost:{port}/{name}"
    "?target_session_attrs=read-write",
    "postgres://{user}@/{name}?host=127.0.0.1,127.0.0.1&port=9,{port}",
]


@pytest.mark.parametrize("url", URLS)
def test_database_is_reached_by_every_form_of_its_url(url):
    known = connection.settings_dict
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        folder = quote(cursor.fetchone()[0], safe="")
    user = f"{known['USER']}:{known['PASSWORD']}"
    places = {"user": user, "port": known["PORT"], "folder": folder}
    parsed = dj_database_url.parse(url.format(name=known["NAME"], **places))
    # As the settings complete it.
    options = known["OPTIONS"] | parsed.get("OPTIONS", {})
    other = DatabaseWrapper(known | parsed | {"OPTIONS": options})
    with closing(other), other.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        assert cursor.fetchone() == (known["NAME"],)


def test_name_resolution_ends_at_the_deadline(names):
    began = time.monotonic()
    with deadlines.within(0.2), pytest.raises(WaitCancelled):
        connect(names)
    assert time.monotonic() - began >= 0.2


def test_last_address_is_used_while_the_resolver_hangs(names):
    names.found = [*address_of_the_server() * 2]
    names.answers.set()
    with connect(names) as first:
        assert first.info.host == names.host
    names.answers.clear()
    with connect(names) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_unknown_name_is_an_operational_error(names):
    names.found = socket.gaierror(socket.EAI_NONAME, "not known")
    names.answers.set()
    with pytest.raises(psycopg.OperationalError, match=names.host):
        connect(names)


def test_autocommit_is_switched_between_transactions_only():
    params = connection.get_connection_params()
    with CancellableConnection.connect(**params, autocommit=True) as database:
        assert database.autocommit
        database.autocommit = False
        database.execute("SELECT 1")
        with pytest.raises(psycopg.ProgrammingError, match="autocommit"):
            database.autocommit = True
        database.rollback()
        database.autocommit = True
        assert database.info.transaction_status == TransactionStatus.IDLE
        database.execute("SELECT 1")
        assert database.info.transaction_status == TransactionStatus.IDLE
    with pytest.raises(psycopg.OperationalError):
        database.autocommit = False


def test_time_without_the_processor_is_not_taken_for_silence(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=clock))
    patience = heartbeat.Patience(0.5)
    for step_s in (0.05, 60.0, 60.0, 0.1):
        clock.now += step_s
        assert not patience.is_over()
    clock.now += 0.1
    assert patience.is_over()


# --- a network that loses connections without a word


class Locks:
    """Locks of the database, by which the test holds statements up."""

    def __init__(self, holder: psycopg.Connection[Any]) -> None:
        self.holder = holder

    def hold(self, number: int) -> None:
        self.holder.execute("SELECT pg_advisory_lock(%s)", [number])

    def let_go(self, number: int) -> None:
        self.holder.execute("SELECT pg_advisory_unlock(%s)", [number])

    def waiting(self, number: int) -> int:
        """Return how many statements wait for it."""
        found = self.holder.execute(
            "SELECT count(*) FROM pg_locks"
            " WHERE locktype = 'advisory' AND objid = %s AND NOT granted",
            [number],
        ).fetchone()
        return found[0] if found else 0


@pytest.fixture
def locks() -> Iterator[Locks]:
    params = connection.get_connection_params() | {"autocommit": True}
    with psycopg.connect(**params) as holder:
        yield Locks(holder)


WAIT = "SELECT pg_advisory_lock_shared(1)"


@pytest.fixture
def network() -> Iterator[Proxy]:
    port = int(connection.get_connection_params()["port"])
    with closing(Proxy(port)) as network:
        yield network


@pytest.fixture
def through_network(network, monkeypatch) -> Iterator[psycopg.Connection[Any]]:
    monkeypatch.setattr("resilient_site.postgres.connection.ASK_AFTER_S", 0.2)
    to = {"host": "127.0.0.1", "port": network.port, "autocommit": True}
    options = connection.get_connection_params() | to
    with closing(CancellableConnection.connect(**options)) as made:
        yield made


@pytest.fixture(params=["on", "off"])
def tracking(request, through_network) -> None:
    """As in some databases, the server does not tell the states of connections."""
    through_network.execute(f"SET track_activities = {request.param}")


@pytest.mark.usefixtures("tracking")
def test_wait_on_a_lost_connection_ends(network, through_network):
    network.lose()
    with pytest.raises(WaitCancelled, match="network has lost"):
        through_network.execute("SELECT 1")
    assert through_network.closed


def test_wait_for_an_answer_that_is_lost_ends(network, through_network, locks):
    locks.hold(1)

    def lose_answer() -> None:
        wait_for(lambda: locks.waiting(1))
        network.lose()
        locks.let_go(1)

    with ThreadPoolExecutor(1) as beside:
        losing = beside.submit(lose_answer)
        with pytest.raises(WaitCancelled, match="network has lost"):
            through_network.execute(WAIT)
        losing.result()


@pytest.mark.usefixtures("tracking")
def test_wait_for_a_server_at_work_goes_on(through_network):
    row = through_network.execute("SELECT pg_sleep(1), 'done'").fetchone()
    assert row[1] == "done"


def test_wait_goes_on_while_the_server_cannot_be_asked(network, through_network):
    """As while it hangs: its answer may still come."""
    network.hold()
    threading.Timer(1.5, network.let_go).start()
    assert through_network.execute("SELECT 1").fetchone() == (1,)


def test_server_is_not_asked_while_its_answer_arrives(
    through_network, monkeypatch, locks
):
    """The rows together take longer than it waits, and each of them less."""
    numbers, clock, checks = range(1, 6), Clock(), 0

    def now() -> float:
        nonlocal checks
        checks += 1
        return clock()

    def is_quiet(self: CancellableConnection) -> bool:
        return self.is_quiet(0)

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))
    monkeypatch.setattr(module, "ASK_AFTER_S", 1)
    monkeypatch.setattr(CancellableConnection, "_is_lost", is_quiet)
    for number in numbers:
        locks.hold(number)

    def let_rows_go() -> None:
        for number in numbers:
            wait_for(lambda number=number: locks.waiting(number))
            clock.now += 0.6
            seen = checks
            wait_for(lambda seen=seen: checks > seen + 1)
            locks.let_go(number)

    with ThreadPoolExecutor(1) as beside:
        letting = beside.submit(let_rows_go)
        # Large ones, which are sent at once.
        rows = "repeat('x', 100000), pg_advisory_lock_shared(n)"
        query = f"SELECT {rows} FROM generate_series(1, {len(numbers)}) AS n"
        assert len(through_network.execute(query).fetchall()) == len(numbers)
        letting.result()


def test_one_connection_at_a_time_asks(monkeypatch, locks):
    asked, has_asked = [], threading.Event()
    refused: set[int] = set()

    def ask(self: CancellableConnection) -> bool:
        asked.append(self)
        return not has_asked.wait(90)

    @contextmanager
    def turn_to_ask() -> Iterator[bool]:
        with real_turn() as is_mine:
            if not is_mine:
                refused.add(threading.get_ident())
            yield is_mine

    real_turn = module._turn_to_ask
    monkeypatch.setattr(module, "_turn_to_ask", turn_to_ask)
    monkeypatch.setattr(module, "ASK_AFTER_S", 0.1)
    monkeypatch.setattr(CancellableConnection, "_is_lost", ask)

    def work() -> None:
        params = connection.get_connection_params()
        with CancellableConnection.connect(**params) as made:
            made.execute(WAIT)

    locks.hold(1)
    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work) for _ in range(3)]
        try:
            wait_for(lambda: len(refused) == 2)
            locks.let_go(1)
            for _, done in zip(range(2), as_completed(working, 90), strict=False):
                done.result()
            assert len(asked) == 1
        finally:
            locks.let_go(1)
            has_asked.set()


# --- several hosts


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A port that takes connections, and does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(90)
        yield silent


def connect_to(*ports: int, **options: Any) -> CancellableConnection:
    places = {
        "host": ",".join(["127.0.0.1"] * len(ports)),
        "port": ",".join(map(str, ports)),
        "target_session_attrs": "read-write",
    }
    params = connection.get_connection_params() | places | {"autocommit": True}
    return CancellableConnection.connect(**params | options)


def test_silent_host_is_left_for_the_next_one(silent):
    ports = silent.getsockname()[1], int(connection.get_connection_params()["port"])

    def is_asked() -> bool:
        return bool(select.select([silent], [], [], 0)[0])

    with deadlines.until(is_asked), pytest.raises(WaitCancelled):
        connect_to(*ports)
    silent.accept()[0].close()
    silent.settimeout(0)
    for _ in range(2):
        with connect_to(*ports) as made:
            assert made.info.port == ports[1]
    # Nor is it asked again while another one works.
    with pytest.raises(BlockingIOError):
        silent.accept()


def test_error_of_several_hosts_is_that_of_the_last():
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect_to(9, 9)
    with pytest.raises(psycopg.OperationalError, match="2 hosts and 3 ports"):
        connect_to(9, 9, port="1,2,3")


def test_wait_ends_when_another_host_has_become_the_primary(network, monkeypatch):
    for name in ("ASK_AFTER_S", "ASK_TIMEOUT_S"):
        monkeypatch.setattr(f"resilient_site.postgres.connection.{name}", 0.2)
    port = int(connection.get_connection_params()["port"])
    with closing(connect_to(network.port, port)) as made:
        assert made.info.port == network.port
        network.hold()
        with pytest.raises(WaitCancelled, match="network has lost"):
            made.execute("SELECT 1")
    with connect_to(network.port, port) as made:
        assert made.info.port == port


def test_look_up_is_made_again_if_its_thread_could_not_start(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail_without_threads)
        with pytest.raises(psycopg.OperationalError, match="new thread"):
            CancellableConnection._addresses("localhost")
    with deadlines.within(90):
        assert CancellableConnection._addresses("localhost")


def fail_without_threads(*args: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_heartbeat_goes_on_after_an_error_of_the_system(monkeypatch):
    """Such as that no file is left, which is none of psycopg's errors."""
    breaker = Breaker("test")
    beat = heartbeat.Heartbeat("default", breaker)
    found: list[Exception | None] = [
        psycopg.OperationalError("down"), OSError(errno.EMFILE, "too many files"), None,
    ]  # fmt: skip

    def query() -> None:
        if error := found.pop(0) if found else None:
            raise error

    monkeypatch.setattr(heartbeat, "PERIOD_S", 0.01)
    monkeypatch.setattr(beat, "_query", query)
    beat.start()
    wait_for(lambda: not found and breaker.state is State.CLOSED)
    assert beat.is_running
    beat.stop()
