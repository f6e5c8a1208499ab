"""Streams and waiting requests of a running site, by the thousand."""

import json
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from typing import Self

import psutil
import psycopg
import pytest

from tests.private_server import has_ended, wait_for
from tests.running import Answer, Site, admin_token
from tests.servers import Postgres

pytestmark = pytest.mark.once

STREAMS = 1_000
WAITS = 100
JOBS = 50
THREADS = 8
# What a loaded machine may take; a stop that waits takes far longer.
PROMPT_S = 10
# Of a worker, beside those of Django: pollers, heartbeat, health, stale store...
OTHER_THREADS = 15
# Of the pollers of jobs and changes, the heartbeat and the health check.
OTHER_CONNECTIONS = 4
EVENTS = "/api/v1/changes/events?since=now"
CHANGE = """
    INSERT INTO items_itemchange
        (item_id, version, action, after, at, actor_name, request_id)
    VALUES (%s, 1, 'created', %s, now(), 'elsewhere', '')
"""
SETUP = f"""
import json
from django.contrib.auth.models import User
from compute.models import Job
user = User.objects.create_user("olga")
jobs = [Job(task="t", owner=user, state="running") for _ in range({JOBS})]
Job.objects.bulk_create(jobs)
print(json.dumps([str(job.pk) for job in jobs]))
"""


class Web(Site):
    """Web processes without a pool: tests change the jobs themselves."""

    def __init__(self, *args, **env):
        super().__init__(*args, **env)
        self.token, self.jobs = "", []

    def prepare(self) -> None:
        assert self.manage("migrate", "-v0").returncode == 0
        made = self.manage("shell", "-v0", "-c", SETUP)
        self.jobs = json.loads(made.stdout)
        self.token = self.manage("create_token", "olga").stdout.strip()

    def worker(self) -> psutil.Process:
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def sql(self, statement: str, *params: object) -> list[tuple]:
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def connections(self) -> int:
        ((number,),) = self.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        return number


class Peer:
    """A client that reads responses and events as they arrive."""

    def __init__(self, site: Web, path: str, head: str = "GET", body: bytes = b""):
        self.socket = socket.create_connection(("127.0.0.1", site.port), 90)
        self.received = b""
        self.socket.sendall(
            f"{head.split()[0]} {path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Token {site.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Prefer: {' '.join(head.split()[1:])}\r\n\r\n".encode()
            + body
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def read_to(self, pattern: bytes) -> re.Match[bytes]:
        while not (match := re.search(pattern, self.received)):
            received = self.socket.recv(65536)
            assert received, f"Ended with {self.received!r}"
            self.received += received
        self.received = self.received[match.end() :]
        return match

    def event(self) -> dict[str, object]:
        return json.loads(self.read_to(rb"event: job\n(?:id: end\n)?data: (.*)\n\n")[1])

    def answer(self) -> tuple[int, dict[str, object]]:
        status = int(self.read_to(rb"HTTP/1.1 (\d+)")[1])
        length = int(self.read_to(rb"(?i)content-length: (\d+)")[1])
        return status, json.loads(self.read_to(rb"(?s)\r\n\r\n(.{%d})" % length)[1])

    def end(self) -> bytes:
        """Return the rest, up to the end of the connection."""
        while received := self.socket.recv(65536):
            self.received += received
        return self.received


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    """Allow this process many connections, but not the site."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STREAMS:
        pytest.skip(f"this process may have no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 * STREAMS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def usual_limit_of_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL that logs each statement, and may be stopped."""
    server = Postgres()
    server.settings |= {"log_statement": "all", "log_line_prefix": "%m "}
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, database) -> Iterator[Web]:
    site = Web(
        tmp_path_factory.mktemp("site"),
        DATABASE_URL=database.url(),
        SECRET_KEY="s" * 50,
        HTTPS="0",
        ALLOWED_HOSTS="localhost,127.0.0.1",
        # These clients are no proxies, for whose idle connections a stop would wait.
        FORWARDED_ALLOW_IPS="",
        WEB_THREADS=str(THREADS),
        COMPUTE_TASKS="tests.compute.faults",
        # So many requests from one address would be rejected.
        ADMISSION="0",
        RATE_LIMITS="off",
    )
    site.prepare()
    yield site
    site.stop()


@pytest.fixture
def site(prepared, many_files) -> Web:
    """The shared site, started again if a test has stopped it."""
    if prepared.process is None or prepared.process.poll() is not None:
        with usual_limit_of_files():
            prepared.start_web()
    # Else a stream is rejected after an outage of the database.
    wait_for(lambda: has_database(prepared.get("/readyz")))
    return prepared


def has_database(ready: Answer) -> bool:
    return ready.status == 200 and b"database" not in ready.body


@pytest.fixture
def open_streams(site) -> Iterator[Callable[[int], list[Peer]]]:
    with ExitStack() as stack:

        def open_streams(number: int) -> list[Peer]:
            jobs = [site.jobs[n % JOBS] for n in range(number)]
            addresses = [f"/api/v1/jobs/{job}/events" for job in jobs]
            peers = [stack.enter_context(Peer(site, path)) for path in addresses]
            for peer, job in zip(peers, jobs, strict=True):
                assert peer.event()["id"] == job
            return peers

        yield open_streams


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def queries(database: Postgres, seconds: float) -> int:
    """Count the queries for subscribed jobs within this time."""

    def count() -> int:
        log = (database.dir / "log").read_text(errors="replace")
        return len(re.findall(r'FROM "compute_job" WHERE "compute_job"."id" IN', log))

    before = count()
    time.sleep(seconds)  # the rate is measured
    return count() - before


def test_thousand_streams_of_jobs_share_one_query(site, database, open_streams):
    worker = site.worker()
    files = worker.num_fds()

    peers = open_streams(STREAMS)

    assert worker.num_fds() >= STREAMS
    assert worker.num_threads() <= THREADS + OTHER_THREADS
    assert site.connections() <= THREADS + OTHER_CONNECTIONS
    assert 1 <= queries(database, 1) <= 20
    times = sorted(seconds_of(lambda: site.get("/items/")) for _ in range(20))
    assert times[10] < PROMPT_S

    site.sql("UPDATE compute_job SET fraction = 0.25, message = 'a quarter'")
    progress = {"fraction": 0.25, "message": "a quarter"}
    assert all(peer.event()["progress"] == progress for peer in peers)

    for peer in peers:
        peer.socket.close()
    wait_for(lambda: worker.num_fds() < files + THREADS + 10)
    wait_for(lambda: queries(database, 1) == 0)
    assert site.get("/items/").status == 200


def test_waiting_requests_are_answered_at_the_end(site):
    body = json.dumps({"task": "echo"}).encode()
    with ExitStack() as stack:
        peers = [
            stack.enter_context(Peer(site, "/api/v1/jobs/", "POST wait=50", body))
            for _ in range(WAITS)
        ]
        made = "SELECT count(*) FROM compute_job WHERE task = 'echo'"
        wait_for(lambda: site.sql(made) == [(WAITS,)])

        assert seconds_of(lambda: site.get("/items/")) < PROMPT_S
        assert site.worker().num_threads() <= THREADS + OTHER_THREADS
        assert site.connections() <= THREADS + OTHER_CONNECTIONS
        site.sql(
            "UPDATE compute_job SET state = 'succeeded', result = '7',"
            " finished_at = now() WHERE task = 'echo'"
        )
        answers = [peer.answer() for peer in peers]
    assert [status for status, _ in answers] == [200] * WAITS
    assert {job["result"] for _, job in answers} == {7}
    assert len({job["id"] for _, job in answers}) == WAITS
    assert site.sql(made) == [(WAITS,)]


def test_wait_that_expires_returns_the_current_state(site):
    body = json.dumps({"task": "nap"}).encode()
    with Peer(site, "/api/v1/jobs/", "POST wait=1", body) as peer:
        began = time.monotonic()
        status, job = peer.answer()
    assert (status, job["state"]) == (202, "queued")
    assert time.monotonic() - began >= 1


def test_streams_survive_a_killed_database(site, database, open_streams):
    peers = open_streams(50)
    before = len(site.output())
    database.kill()
    wait_for(lambda: "Jobs cannot be followed" in site.output()[before:])
    database.start()
    site.sql("UPDATE compute_job SET message = 'back again'")
    for peer in peers:
        assert peer.event()["progress"]["message"] == "back again"
    assert site.output()[before:].count("Jobs cannot be followed") == 1


def test_streams_survive_a_hanging_database(site, database, open_streams):
    peers = open_streams(50)
    database.pause()
    try:
        time.sleep(3)  # longer than a connection attempt
        # What needs no database is answered all the while.
        assert seconds_of(lambda: site.get("/api/v1/nothing")) < PROMPT_S
    finally:
        database.resume()
    site.sql("UPDATE compute_job SET message = 'awake again'")
    for peer in peers:
        assert peer.event()["progress"]["message"] == "awake again"


def test_hanging_database_does_not_delay_a_stop(site, database, open_streams):
    open_streams(5)
    database.pause()
    try:
        time.sleep(1)  # the next query is under way
        assert seconds_of(site.stop) < PROMPT_S
    finally:
        database.resume()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_stop_ends_streams_completely(site, open_streams, signum):
    peers = open_streams(100)
    assert seconds_of(lambda: site.stop(signum)) < PROMPT_S
    for peer in peers:
        assert peer.end().endswith(b"0\r\n\r\n")


def test_reload_ends_streams_and_clients_reconnect(site, open_streams):
    (peer,) = open_streams(1)
    worker = site.worker()
    site.process.send_signal(signal.SIGHUP)
    assert peer.end().endswith(b"0\r\n\r\n")
    worker.wait(PROMPT_S)
    open_streams(1)


def test_recycled_worker_exits_despite_streams(prepared, monkeypatch, open_streams):
    prepared.stop()
    monkeypatch.setitem(prepared.env, "WEB_MAX_REQUESTS", "10")
    prepared.start_web()
    try:
        worker = prepared.worker()
        (peer,) = open_streams(1)

        def is_recycled() -> bool:
            with suppress(OSError, HTTPException):
                prepared.get("/api/v1/nothing")
            return not worker.is_running() or has_ended(worker)

        wait_for(is_recycled)
        assert peer.end().endswith(b"0\r\n\r\n")
        assert prepared.get("/items/").status == 200
    finally:
        prepared.stop()


# --- the change feed


def insert_changes(site: Web, *item_ids: str, description: str = "") -> None:
    """Insert changes without an announcement to this machine."""
    state = json.dumps({"name": "x", "description": description, "tags": []})
    with psycopg.connect(site.env["DATABASE_URL"]) as connection:
        for item_id in item_ids:
            connection.execute(CHANGE, [item_id, state])


def read_to(peer: Peer, item_id: str) -> None:
    peer.read_to(rb'event: change\nid: .*\ndata: .*"item_id":"%b"' % item_id.encode())


def change_queries(database: Postgres, seconds: float) -> int:
    def count() -> int:
        log = (database.dir / "log").read_text(errors="replace")
        return len(re.findall('FROM "items_itemchange"', log))

    before = count()
    time.sleep(seconds)  # the rate is measured
    return count() - before


def test_thousand_streams_of_changes_share_one_query(site, database):
    worker = site.worker()
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(site, EVENTS)) for _ in range(STREAMS)]
        for peer in peers:
            peer.read_to(rb"\nid: .*\n\n")
        assert worker.num_threads() <= THREADS + OTHER_THREADS
        assert site.connections() <= THREADS + OTHER_CONNECTIONS
        assert 1 <= change_queries(database, 2) <= 2 * 20
        insert_changes(site, "to-all")
        for peer in peers:
            read_to(peer, "to-all")
    wait_for(lambda: change_queries(database, 1) == 0)


def test_waiting_request_ends_at_the_change(site):
    path = "/api/v1/changes?since=now"
    with Peer(site, path, "GET wait=1") as peer:
        began = time.monotonic()
        body = peer.answer()[1]
        assert body["results"] == []
        assert time.monotonic() - began >= 1

    on = "/api/" + body["next"].rpartition("/api/")[2]
    with Peer(site, on, "GET wait=50") as peer, Peer(site, EVENTS) as stream:
        stream.read_to(rb"\nid: .*\n\n")  # the request before is probably waiting
        insert_changes(site, "waited-for")
        status, body = peer.answer()
    assert (status, body["results"][0]["item_id"]) == (200, "waited-for")


def test_client_that_does_not_read_is_disconnected_alone(site):
    with Peer(site, EVENTS) as slow, Peer(site, EVENTS) as quick:
        # Else the kernel would buffer what the site does not.
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.read_to(rb"\nid: .*\n\n")
        quick.read_to(rb"\nid: .*\n\n")
        for number in range(20):
            names = [f"large-{number}-{part}" for part in range(10)]
            insert_changes(site, *names, description="d" * 100_000)
            read_to(quick, names[-1])
        left = slow.read_to(rb"\r\n0\r\n\r\n").string
        assert b"large-0-0" in left
        assert b"large-19-9" not in left


# --- the embedded default


def test_job_runs_on_the_embedded_default_with_sentry(tmp_path):
    """Sentry wraps what Django's handler returns."""
    site = Web(tmp_path, COMPUTE_TASKS="tests.compute.faults")
    site.env["SENTRY_DSN"] = "http://key@127.0.0.1:9/1"
    site.start()
    try:
        site.token = admin_token()
        body = json.dumps({"task": "nap", "params": {"seconds": 1}}).encode()
        with Peer(site, "/api/v1/jobs/", "POST", body) as peer:
            job = peer.answer()[1]
        states = []
        with Peer(site, f"/api/v1/jobs/{job['id']}/events") as peer:
            while not {"succeeded", "failed"} & set(states):
                states.append(peer.event()["state"])
            assert peer.read_to(rb"\r\n0\r\n\r\n")
        assert states[-1] == "succeeded"
        assert set(states[:-1]) <= {"queued", "running"}
        with Peer(site, "/api/v1/jobs/", "POST wait=50", body) as peer:
            status, job = peer.answer()
        assert (status, job["state"]) == (200, "succeeded")

        for _ in range(5):  # each would hold an export slot if it streamed
            assert site.request("HEAD", "/api/v1/items/export").status == 200
    finally:
        site.stop()
