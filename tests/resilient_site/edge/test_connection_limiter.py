"""Clients that are slow, idle, too many, or do not read: others do not notice."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from resilient_site.edge import connection_limiter as crowd_module
from resilient_site.edge import request_body
from resilient_site.edge.connection_limiter import Crowd
from tests.load.clients import HEAD, ITEM, Clients
from tests.private_server import BUSY_S, wait_for
from tests.running import Site

pytestmark = pytest.mark.once

MOST, HEAD_S = 100, 1  # of `strict_site`
REQUEST = b"GET " + ITEM.encode() + HEAD
GLANCE = REQUEST.replace(b"GET", b"HEAD") + b"\r\n"  # its answer comes in one piece


@pytest.fixture
def site(strict_site: Site) -> Site:
    return strict_site


@pytest.fixture
def connect(site) -> Iterator[Any]:
    with contextlib.ExitStack() as opened:

        def one() -> socket.socket:
            peer = socket.create_connection((site.host, site.port), 15)
            return opened.enter_context(peer)

        yield one


def read_to_the_end(peer: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(65_536):
            received += part
    return received


def connections(site: Site) -> int:
    (worker,) = psutil.Process(site.process.pid).children()
    found = worker.net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED for one in found)


def test_readers_do_not_notice_clients_whose_heads_never_end(site, connect):
    """Twice as many of them as there may be connections."""
    with Clients(site) as clients:
        clients.run(clients.read_once)
        clients.run(clients.read_on_and_on)
        slow = [connect() for _ in range(2 * MOST)]
        before = clients.answers[200]
        deadline = time.monotonic() + 3 * HEAD_S
        while time.monotonic() < deadline:
            for peer in slow:
                with contextlib.suppress(OSError):
                    peer.sendall(b"G")
            clients.pause(0.2)
        assert connections(site) < MOST
        # Who waited for the ends of heads would have had three or four.
        assert clients.answers[200] - before > 50
    # A kept one may itself have waited longest, when the machine is busy.
    lost = [one for one in clients.failures if "RemoteDisconnected" not in str(one)]
    assert lost == []
    assert clients.longest_s < HEAD_S + BUSY_S, clients.longest_s


def test_a_head_that_drips_is_ended_in_time(connect):
    peer = connect()
    began = time.monotonic()
    peer.sendall(REQUEST)
    peer.settimeout(0.2)
    received = b""
    while not received and time.monotonic() - began < 10:
        peer.sendall(b"X: y\r\n")
        with contextlib.suppress(TimeoutError):
            received = peer.recv(65_536)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"too_slow"' in received
    assert HEAD_S <= time.monotonic() - began < HEAD_S + 3


@pytest.mark.parametrize("said", [b"", b"\r\n\r\n"])
def test_who_asks_for_nothing_is_let_go(connect, said):
    peer = connect()
    began = time.monotonic()
    peer.sendall(said)
    assert read_to_the_end(peer) == b""
    assert HEAD_S <= time.monotonic() - began < HEAD_S + 3


def test_an_idle_connection_is_let_go_though_line_ends_come(connect):
    peer = connect()
    peer.sendall(GLANCE)
    assert peer.recv(65_536).startswith(b"HTTP/1.1 200 ")
    peer.sendall(b"\r\n")
    began = time.monotonic()
    assert read_to_the_end(peer) == b""
    assert time.monotonic() - began < HEAD_S + 3


def test_the_time_of_a_head_does_not_run_while_its_client_waits(site, connect):
    """He had sent a part of it before he was answered."""
    peer = connect()
    peer.sendall(GLANCE + REQUEST)
    assert peer.recv(65_536).startswith(b"HTTP/1.1 200 ")
    peer.sendall(b"Connection: close\r\n\r\n")
    assert read_to_the_end(peer).startswith(b"HTTP/1.1 200 ")


def test_who_came_first_and_asks_for_nothing_goes_first(connect):
    idle = [connect() for _ in range(MOST // 2)]
    for peer in idle:
        peer.sendall(GLANCE)
        assert peer.recv(65_536).startswith(b"HTTP/1.1 200 ")
    # The last one of them has just been answered once more.
    more = [connect() for _ in range(MOST - 1)]
    more[-1].sendall(REQUEST + b"Connection: close\r\n\r\n")
    assert read_to_the_end(more[-1]).startswith(b"HTTP/1.1 200 ")
    assert read_to_the_end(idle[0]) == b""
    idle[-1].sendall(REQUEST + b"Connection: close\r\n\r\n")
    assert read_to_the_end(idle[-1]).startswith(b"HTTP/1.1 200 ")


def test_where_all_are_busy_a_newcomer_is_refused():
    crowd = Crowd(most=1, head_s=1)
    busy, newcomer = Connection(), Connection()
    assert crowd.let_in(busy, 1)
    crowd.forget(busy)
    assert not crowd.let_in(newcomer, 2)
    crowd.expect(busy)
    assert crowd.let_in(newcomer, 2)
    assert busy.transport.is_aborted


class Transport:
    unread = 0
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.is_aborted = True


class Connection:
    """As the sweep sees it."""

    lingers_until = head_began = None

    def __init__(self) -> None:
        self.transport = Transport()


@pytest.mark.parametrize(("rate", "is_ended"), [(0, True), (500, True), (2000, False)])
def test_who_does_not_read_is_cut_off(monkeypatch, rate, is_ended):
    crowd, client, now = Crowd(most=1, head_s=1), Connection(), 0.0
    client.transport.unread = 1
    monkeypatch.setattr(crowd_module, "bytes_taken", lambda _: int(now * rate))
    while now < 3 * crowd_module.UNREAD_S:
        crowd.sweep([client], now)
        now += 1
    assert client.transport.is_aborted == is_ended


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_what_a_client_has_taken_is_known(family, tmp_path):
    address = ("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s")
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(address, family=family))
        theirs = opened.enter_context(socket.socket(family))
        theirs.connect(listener.getsockname())
        ours = opened.enter_context(listener.accept()[0])
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 100_000)
        transport = Transport()
        transport.get_extra_info = lambda _: ours
        before = crowd_module.bytes_taken(transport)
        wait_for(
            lambda: (
                theirs.recv(1_000_000) and crowd_module.bytes_taken(transport) > before
            ),
            5,
        )


def test_a_body_that_drips_is_ended_in_time(monkeypatch):
    """Each piece comes in time, and all of them do not."""
    monkeypatch.setattr(request_body, "IDLE_S", 0.3)

    class Request:
        path, has_authorization = "/", False
        headers = {b"content-length": b"100"}

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    with request_body.new_body() as body, pytest.raises(request_body.TooSlow):
        asyncio.run(request_body.receive_body(Request(), drip, body))


def test_a_body_that_nobody_wants_does_not_hold_its_connection(connect):
    """After the refusal the client may drip on for a while, and no longer."""
    peer = connect()
    peer.sendall(b"POST /api/v1/items/" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    received = peer.recv(65_536)
    assert received.startswith(b"HTTP/1.1 411 ")
    assert b"connection: close" in received.lower()
    peer.settimeout(0.1)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 20:
            peer.sendall(b"1\r\nx\r\n")
            time.sleep(0.05)
    assert time.monotonic() - began < 8
