"""Following changes on the real site: by the thousand, and through a broker."""

import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import kombu
import psutil
import psycopg
import pytest

from items.events.publisher import EXCHANGE
from tests.compute.test_streams import OTHER_THREADS, THREADS, Peer, Web
from tests.private_server import BUSY_S, wait_for
from tests.running import Site, admin_token
from tests.servers import Postgres

pytestmark = pytest.mark.once

STREAMS = 1_000
EVENTS = "/api/v1/changes/events?since=now"
QUEUE = kombu.Queue("site", EXCHANGE, routing_key="#")
CHANGE = """
    INSERT INTO items_itemchange
        (item_id, version, action, after, at, actor_name, request_id)
    VALUES (%s, 1, 'created', %s, now(), 'elsewhere', '')
"""


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STREAMS:
        pytest.skip(f"this process may have no more than {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 * STREAMS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """One that writes down each statement."""
    server = Postgres()
    server.settings |= {"log_statement": "all"}
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory, database, many_files) -> Iterator[Web]:
    site = Web(
        tmp_path_factory.mktemp("site"),
        DATABASE_URL=database.url(),
        SECRET_KEY="s" * 50,
        HTTPS="0",
        ALLOWED_HOSTS="localhost,127.0.0.1",
        WEB_THREADS=str(THREADS),
        ADMISSION="0",
        RATE_LIMITS="off",
    )
    site.prepare()
    site.start_web()
    yield site
    site.stop()


def from_elsewhere(site: Web, *item_ids: str, description: str = "") -> None:
    """Changes of which this machine is told nothing."""
    state = json.dumps({"name": "x", "description": description, "tags": []})
    with psycopg.connect(site.env["DATABASE_URL"]) as connection:
        for item_id in item_ids:
            connection.execute(CHANGE, [item_id, state])


def read_to(peer: Peer, item_id: str) -> None:
    peer.read_to(rb'event: change\nid: .*\ndata: .*"item_id":"%b"' % item_id.encode())


def reads(database: Postgres, seconds: float) -> int:
    def count() -> int:
        log = (database.dir / "log").read_text(errors="replace")
        return len(re.findall('FROM "items_itemchange"', log))

    before = count()
    time.sleep(seconds)  # time itself is what is measured
    return count() - before


def test_thousand_streams_share_one_reader(site, database):
    (worker,) = psutil.Process(site.process.pid).children()
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(site, EVENTS)) for _ in range(STREAMS)]
        for peer in peers:
            peer.read_to(rb"\nid: .*\n\n")
        # One for jobs is not there.
        assert worker.num_threads() <= THREADS + OTHER_THREADS
        assert site.connections() <= THREADS + 3
        assert 1 <= reads(database, 2) <= 2 * 4

        began = time.monotonic()
        from_elsewhere(site, "to-all")
        for peer in peers:
            read_to(peer, "to-all")
        took = time.monotonic() - began
        print(f"{STREAMS} streams heard of a change after {took:.2f} s")
        assert took < 3 + BUSY_S
    wait_for(lambda: reads(database, 1) == 0)


def test_waiting_request_ends_at_the_change(site):
    path = "/api/v1/changes?since=now"
    with Peer(site, path, "GET wait=1") as peer:
        began = time.monotonic()
        body = peer.answer()[1]
        assert body["results"] == []
        assert 1 <= time.monotonic() - began < 5

    on = "/api/" + body["next"].rpartition("/api/")[2]
    with Peer(site, on, "GET wait=50") as peer, Peer(site, EVENTS) as stream:
        stream.read_to(rb"\nid: .*\n\n")  # so the one before is likely to wait
        began = time.monotonic()
        from_elsewhere(site, "waited-for")
        status, body = peer.answer()
        assert time.monotonic() - began < 1 + BUSY_S
    assert (status, body["results"][0]["item_id"]) == (200, "waited-for")


def test_client_that_does_not_read_is_disconnected_alone(site):
    with Peer(site, EVENTS) as slow, Peer(site, EVENTS) as quick:
        # Else the kernel would keep for him what the site does not.
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.read_to(rb"\nid: .*\n\n")
        quick.read_to(rb"\nid: .*\n\n")
        for number in range(20):
            names = [f"large-{number}-{part}" for part in range(10)]
            from_elsewhere(site, *names, description="d" * 100_000)
            read_to(quick, names[-1])
        left = slow.read_to(rb"\r\n0\r\n\r\n").string
        assert b"large-0-0" in left
        assert b"large-19-9" not in left


def test_serve_publishes_events_and_restarts_a_killed_relay(rabbitmq_server, tmp_path):
    site = Site(tmp_path, EVENTS_URL=rabbitmq_server.url())
    with kombu.Connection(rabbitmq_server.url()) as broker:
        queue = QUEUE.bind(broker.default_channel)
        queue.delete()
        queue.declare()
        site.start()
        try:
            expected = wait_for(lambda: published(queue, "Germany"))
            assert expected["type"] == "resilient-site.item.created"
            (relay,) = site._having("relay_events")
            relay.kill()
            wait_for(lambda: [p for p in site._having("relay_events") if p != relay])
            token = admin_token()
            headers = {"Authorization": f"Token {token}"}
            site.request("PATCH", "/api/v1/items/country.DE", {"name": "New"}, headers)
            event = wait_for(lambda: published(queue, "New"), 60)
            assert event["subject"] == "country.DE"
            verbose = site.get("/readyz?verbose").json()
            assert "events" in verbose["checks"]
        finally:
            site.stop()


def published(queue: kombu.Queue, name: str) -> dict | None:
    """Take messages until one tells of an item of that name."""
    while message := queue.get(no_ack=True):
        event = json.loads(message.body)
        if event["data"]["after"]["name"] == name:
            return event
    return None
