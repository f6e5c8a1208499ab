"""Streams and waiting requests of a running site, by the thousand."""

import json
import re
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import psutil
import psycopg
import pytest

from tests.private_server import has_ended, wait_for
from tests.running import Site
from tests.servers import Postgres

pytestmark = pytest.mark.once

# Of jobs, and of changes: together more than the usual limit of files.
STREAMS = 600
WAITS = 30
JOBS = 10
THREADS = 8
# Of a worker, beside those of Django: pollers, heartbeat, health, stale store...
OTHER_THREADS = 17
# Of the pollers of jobs and changes, the heartbeat and the health checks.
OTHER_CONNECTIONS = 6
# Of a process that may have few.
FILES = 256
EVENTS = "/api/v1/changes/events?since=now"
CHANGE = """
    INSERT INTO items_itemchange
        (item_id, version, action, after, at, actor_name, request_id)
    VALUES (%s, 1, 'created', %s, now(), 'elsewhere', '')
"""


class Peer:
    """A client that reads responses and events as they arrive."""

    def __init__(
        self,
        site: Site,
        path: str,
        method: str = "GET",
        prefer: str = "",
        **body: object,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", site.port), 90)
        self.received = b""
        content = json.dumps(body) if body else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: {site.authorization}\r\nPrefer: {prefer}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self.socket.sendall((head + content).encode())

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

    def job(self) -> dict[str, object]:
        return json.loads(self.read_to(rb"event: job\n(?:id: end\n)?data: (.*)\n\n")[1])

    def change(self, item_id: str) -> None:
        self.read_to(
            rb'event: change\nid: .*\ndata: .*"item_id":"%b"' % item_id.encode()
        )

    def answer(self) -> tuple[int, dict[str, object]]:
        status = int(self.read_to(rb"HTTP/1.1 (\d+)")[1])
        length = int(self.read_to(rb"(?i)content-length: (\d+)")[1])
        return status, json.loads(self.read_to(rb"(?s)\r\n\r\n(.{%d})" % length)[1])


def allow_few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def test_probes_respond_while_one_address_takes_all_the_streams_it_can(tmp_path):
    site = Site(tmp_path)
    try:
        site.start_web(preexec_fn=allow_few_files)
        request = f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with ExitStack() as peers:
            answers = []
            for _ in range(FILES):
                connecting = socket.create_connection(("127.0.0.1", site.port), 60)
                peer = peers.enter_context(connecting)
                peer.sendall(request)
                answers.append(peer.recv(4096))
            of_kinds = Counter(answer.split()[1] for answer in answers)
            assert of_kinds.keys() == {b"200"}  # some of them streams
            for path in ("/livez", "/readyz"):
                probe = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
                assert b" 200 OK" in site.raw(probe, "127.0.0.2")
                assert b" 200 OK" in site.raw(probe)
    finally:
        site.stop()


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL that logs each statement, and may be stopped."""
    server = Postgres()
    server.settings |= {"log_statement": "all"}
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory, database) -> Iterator[Site]:
    """Web processes with the usual limit of files, and no pool; jobs that are running.

    This process may have more connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STREAMS:
        pytest.skip(f"this process may have no more than {hard} files")
    folder = tmp_path_factory.mktemp("site")
    site, token, _ = Site.on_postgres(
        database.url(),
        folder,
        # These clients are no proxies, for whose idle connections a stop would wait.
        FORWARDED_ALLOW_IPS="",
        WEB_THREADS=str(THREADS),
        COMPUTE_TASKS="tests.compute.faults",
        # A server that a busy machine lets wait has not failed.
        HEARTBEAT_TIMEOUT_S="3",
        # So many requests from one address would be rejected.
        ADMISSION="0",
        RATE_LIMITS="off",
        # Sentry wraps what Django's handler returns.
        SENTRY_DSN="http://key@127.0.0.1:9/1",
    )
    site.authorization = f"Token {token}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        site.start_web()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 * STREAMS, hard))
        for _ in range(JOBS):
            wait_for(lambda: is_submitted(site))  # a busy machine may reject some
        sql(site, "UPDATE compute_job SET state = 'running'")
        yield site
    finally:
        site.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_submitted(site: Site) -> bool:
    with Peer(site, "/api/v1/jobs/", "POST", task="nap") as peer:
        return peer.answer()[0] == 202


@pytest.fixture
def site(running) -> Site:
    """The site, with its database: it rejects streams for a while after an outage."""
    wait_for(lambda: has_database(running))
    return running


def has_database(site: Site) -> bool:
    ready = site.get("/readyz")
    return ready.status == 200 and b"database" not in ready.body


def worker_of(site: Site) -> psutil.Process:
    children = psutil.Process(site.process.pid).children()
    (worker,) = [child for child in children if not has_ended(child)]
    return worker


def sql(site: Site, statement: str, *params: object) -> list[tuple]:
    with psycopg.connect(site.env["DATABASE_URL"], autocommit=True) as connection:
        cursor = connection.execute(statement, params)
        return cursor.fetchall() if cursor.description else []


def insert_changes(site: Site, *item_ids: str, description: str = "") -> None:
    """Insert changes without an announcement to this machine."""
    state = json.dumps({"name": "x", "description": description, "tags": []})
    with psycopg.connect(site.env["DATABASE_URL"]) as connection:
        for item_id in item_ids:
            connection.execute(CHANGE, [item_id, state])


def assert_few_threads_and_connections(site: Site) -> None:
    assert worker_of(site).num_threads() <= THREADS + OTHER_THREADS
    # One that was closed ends a little later.
    wait_for(lambda: count_connections(site) <= THREADS + OTHER_CONNECTIONS)


def count_connections(site: Site) -> int:
    ((number,),) = sql(
        site,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()",
    )
    return number


def is_followed(output: str, what: str) -> bool:
    """Return whether the last outage has ended for this poller too."""
    return output.count(f"{what} can be followed again") >= output.count(
        f"{what} cannot be followed"
    )


@contextmanager
def streams(site: Site, number: int) -> Iterator[tuple[list[Peer], list[Peer]]]:
    """So many streams of jobs, and as many of changes, that have begun."""
    running = sql(site, "SELECT id FROM compute_job WHERE state = 'running'")
    paths = [f"/api/v1/jobs/{running[n % JOBS][0]}/events" for n in range(number)]
    with ExitStack() as stack:
        jobs = [stack.enter_context(Peer(site, path)) for path in paths]
        changes = [stack.enter_context(Peer(site, EVENTS)) for _ in range(number)]
        for peer in jobs:
            peer.job()
        for peer in changes:
            peer.read_to(rb"\nid: .*\n\n")
        yield jobs, changes


def assert_all_receive(
    site: Site, jobs: list[Peer], changes: list[Peer], text: str
) -> None:
    sql(site, "UPDATE compute_job SET message = %s", text)
    insert_changes(site, text)
    for peer in jobs:
        assert peer.job()["progress"]["message"] == text
    for peer in changes:
        peer.change(text)


def rate(database: Postgres, query: str) -> float:
    """Return how many of these queries there are in a second."""

    def count() -> int:
        return (database.dir / "log").read_text(errors="replace").count(query)

    began, before = time.monotonic(), count()  # what a pause adds is time
    after = wait_for(lambda: (now := count()) >= before + 3 and now)
    return (after - before) / (time.monotonic() - began)


def test_thousand_streams_hold_no_threads_and_share_their_queries(site, database):
    worker = worker_of(site)
    files = worker.num_fds()
    with streams(site, STREAMS) as (jobs, changes):
        assert worker.num_fds() >= 2 * STREAMS
        assert_few_threads_and_connections(site)
        assert rate(database, 'FROM "compute_job" WHERE "compute_job"."id" IN') <= 20
        assert rate(database, 'FROM "items_itemchange"') <= 20
        assert site.get("/items/").status == 200
        assert_all_receive(site, jobs, changes, "to-all")
    wait_for(lambda: worker.num_fds() < files + THREADS + 10)


def test_waiting_requests_hold_no_threads_and_are_answered_at_the_event(site):
    with Peer(site, "/api/v1/jobs/", "POST", "wait=1", task="nap") as peer:
        status, job = peer.answer()
    assert (status, job["state"]) == (202, "queued")  # the wait has expired
    with Peer(site, "/api/v1/changes?since=now", prefer="wait=1") as peer:
        page = peer.answer()[1]
    assert page["results"] == []

    rest = "/api/" + page["next"].rpartition("/api/")[2]
    made = "SELECT count(*) FROM compute_job WHERE task = 'echo'"
    with ExitStack() as stack:
        feed = stack.enter_context(Peer(site, rest, prefer="wait=60"))
        peers = [
            stack.enter_context(
                Peer(site, "/api/v1/jobs/", "POST", "wait=60", task="echo")
            )
            for _ in range(WAITS)
        ]
        wait_for(lambda: sql(site, made) == [(WAITS,)])
        assert site.get("/items/").status == 200
        assert_few_threads_and_connections(site)
        sql(
            site,
            "UPDATE compute_job SET state = 'succeeded', result = '7',"
            " finished_at = now() WHERE task = 'echo'",
        )
        insert_changes(site, "waited-for")
        answers = [peer.answer() for peer in peers]
        status, page = feed.answer()
    assert (status, page["results"][0]["item_id"]) == (200, "waited-for")
    assert {(status, job["result"]) for status, job in answers} == {(200, 7)}
    assert len({job["id"] for _, job in answers}) == WAITS
    assert sql(site, made) == [(WAITS,)]


def test_streams_survive_a_database_that_hangs_and_is_killed(site, database):
    began = len(site.output())
    with streams(site, 10) as peers:
        database.pause()
        try:
            wait_for(lambda: not has_database(site))
            # What needs no database is answered all the while.
            assert site.get("/api/v1/nothing").status == 404
        finally:
            database.resume()
        assert_all_receive(site, *peers, "awake again")
        for what in ("Jobs", "Changes"):
            wait_for(lambda: is_followed(site.output()[began:], what))  # noqa: B023

        before = len(site.output())
        database.kill()
        try:
            for what in ("Jobs", "Changes"):
                failure = f"{what} cannot be followed"
                wait_for(lambda: failure in site.output()[before:])  # noqa: B023
        finally:
            database.start()
        assert_all_receive(site, *peers, "back again")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT], ids=str)
def test_stop_ends_streams_completely_also_while_the_database_hangs(
    site, database, signum
):
    """gunicorn stops its workers by SIGTERM, at a reload too, or by SIGQUIT."""
    worker = worker_of(site)
    with streams(site, 20) as (jobs, changes):
        database.pause()
        try:
            wait_for(lambda: not has_database(site))
            worker.send_signal(signum)
            for peer in jobs + changes:
                peer.read_to(rb"0\r\n\r\n$")
                assert peer.socket.recv(1) == b""
            wait_for(lambda: has_ended(worker))
        finally:
            database.resume()


def test_client_that_does_not_read_is_disconnected_alone(site):
    with Peer(site, EVENTS) as slow, Peer(site, EVENTS) as quick:
        # Else the kernel would buffer what the site does not.
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.read_to(rb"\nid: .*\n\n")
        quick.read_to(rb"\nid: .*\n\n")
        for number in range(12):
            names = [f"large-{number}-{part}" for part in range(10)]
            insert_changes(site, *names, description="d" * 100_000)
            quick.change(names[-1])
        left = slow.read_to(rb"\r\n0\r\n\r\n").string
        assert b"large-0-0" in left
        assert b"large-11-9" not in left
