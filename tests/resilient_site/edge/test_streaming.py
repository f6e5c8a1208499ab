"""Answers that go on without a thread, on Uvicorn as our workers run it."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import uvicorn
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from resilient_site import asgi
from resilient_site.edge import streaming, wsgi_bridge
from resilient_site.edge.streaming import Stream, Wait, held, waited_for
from resilient_site.edge.worker import Server, Worker

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
pytestmark = [pytest.mark.urls(__name__), pytest.mark.once]

# What the views go by, and what they have seen; new for each test.
now = SimpleNamespace()


@pytest.fixture(autouse=True)
def state():
    vars(now).clear()
    done = asyncio.Event()
    vars(now).update(
        open=0, asked=[], answers=[], first_status=202,
        done=done, until=done.wait, wait_s=20,
    )  # fmt: skip
    yield now
    held.is_ending = False
    assert not held.tasks


async def pieces():
    now.open += 1
    try:
        yield b"first\n"
        await now.done.wait()
        yield b"last\n"
    finally:
        now.open -= 1


async def flood():
    now.open += 1
    try:
        while True:
            yield b"x" * 100_000
    finally:
        now.open -= 1


def stream(request):
    response = HttpResponse("as it stands", headers={"X-Kept": "1"})
    response.later = Stream(flood if "flood" in request.GET else pieces)
    return response


@csrf_exempt
def wait(request):
    token = waited_for(request)
    now.asked.append((token, request.body))
    if token and now.answers:
        return now.answers.pop()
    response = HttpResponse(
        f"asked {len(now.asked)}", status=200 if token else now.first_status
    )
    response.later = Wait(now.until, now.wait_s, "token")
    return response


urlpatterns = [
    path("stream", stream),
    path("wait", wait),
    path("page", lambda request: HttpResponse("page")),
]
handler404 = "resilient_site.errors.respond_to_exception"


@pytest.fixture(autouse=True)
def all_let_in(monkeypatch):
    """So many come at once that most would be refused."""
    monkeypatch.setattr(wsgi_bridge.admission, "is_on", False)


class Site:
    def __init__(self, server: Server, listener: socket.socket) -> None:
        self.server, self.port = server, listener.getsockname()[1]
        self.run = asyncio.create_task(server.serve([listener]))
        self.peers: list[asyncio.StreamWriter] = []

    async def send(self, request: bytes):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.peers.append(writer)
        writer.write(request)
        return reader, writer

    async def stop(self, within_s: float = 20) -> None:
        self.server.should_exit = True
        await asyncio.wait_for(asyncio.shield(self.run), within_s)

    async def get(self, target: bytes, request: bytes = GET) -> tuple[bytes, bytes]:
        reader, _ = await self.send(request % target)
        return await answer(reader)


async def head(reader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)


async def answer(reader) -> tuple[bytes, bytes]:
    start = await head(reader)
    length = int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return start, await reader.readexactly(length)


async def becomes(condition: Callable[[], bool], within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    options = Worker.CONFIG_KWARGS | {
        "log_config": None,
        "forwarded_allow_ips": "",
        "timeout_graceful_shutdown": 1,  # for clients that do not read
    }
    server = Server(uvicorn.Config(asgi.application, **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = Site(server, listener)
        try:
            await becomes(lambda: server.started or site.run.done())
            yield site
        finally:
            for peer in site.peers:
                peer.close()
            await site.stop()


def served(test):
    """Run an asynchronous test with a site of its own."""

    def synchronous():
        async def run():
            async with serving() as site:
                await test(site)

        asyncio.run(run())

    synchronous.__name__, synchronous.__doc__ = test.__name__, test.__doc__
    return synchronous


# --- streams


@served
async def test_a_stream_goes_out_in_place_of_the_content(site):
    reader, writer = await site.send(GET % b"/stream")
    start = await head(reader)
    assert start.startswith(b"HTTP/1.1 200")
    assert b"x-kept: 1" in start
    assert b"content-length" not in start.lower()
    assert await reader.readuntil(b"first\n\r\n") == b"6\r\nfirst\n\r\n"
    now.done.set()
    assert await reader.readexactly(15) == b"5\r\nlast\n\r\n0\r\n\r\n"
    await becomes(lambda: now.open == 0)
    # Ended in good order: the connection serves on.
    writer.write(GET % b"/page")
    assert (await answer(reader))[1] == b"page"


@served
async def test_streams_hold_no_threads(site):
    before = threading.active_count()
    streams = [await site.send(GET % b"/stream") for _ in range(100)]
    for reader, _ in streams:
        await reader.readuntil(b"first\n")
    assert now.open == 100
    assert (await site.get(b"/page"))[1] == b"page"
    assert threading.active_count() < before + 20


@served
async def test_a_stream_ends_with_its_client(site):
    reader, writer = await site.send(GET % b"/stream")
    await reader.readuntil(b"first\n")
    writer.close()
    await becomes(lambda: now.open == 0)


@served
async def test_the_head_of_a_stream_starts_none(site):
    request = GET.replace(b"GET", b"HEAD") % b"/stream"
    reader, _ = await site.send(request + GET % b"/page")
    assert b"x-kept: 1" in await head(reader)
    assert (await answer(reader))[1] == b"page"
    assert now.open == 0


def test_a_stream_that_is_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(wsgi_bridge, "IDLE_S", 0.3)

    @served
    async def run(site):
        reader, _ = await site.send(GET % b"/stream?flood")
        await becomes(lambda: now.open == 1)
        await becomes(lambda: now.open == 0)

    run()


@served
async def test_a_stream_that_is_not_read_does_not_hold_up_the_stop(site):
    await site.send(GET % b"/stream?flood")
    await becomes(lambda: now.open == 1)
    for connection in site.server.server_state.connections:
        await becomes(lambda: connection.flow.write_paused)  # noqa: B023
    await site.stop()
    assert now.open == 0


def test_a_stream_ends_after_a_time_in_good_order(monkeypatch):
    monkeypatch.setattr(wsgi_bridge, "STREAM_MAX_S", 0.1)

    @served
    async def run(site):
        reader, _ = await site.send(GET % b"/stream")
        await head(reader)
        assert await reader.readuntil(b"0\r\n\r\n") == b"6\r\nfirst\n\r\n0\r\n\r\n"

    run()


def test_beyond_the_room_there_is_the_answer_is_sent_as_it_stands(monkeypatch):
    monkeypatch.setattr(streaming, "most_held", lambda: 1)

    @served
    async def run(site):
        reader, _ = await site.send(GET % b"/stream")
        await reader.readuntil(b"first\n")
        start, content = await site.get(b"/stream")
        assert content == b"as it stands"
        assert (await site.get(b"/wait"))[1] == b"asked 1"

    run()


def test_on_another_server_the_answer_is_complete(client):
    assert client.get("/stream").content == b"as it stands"
    response = client.post("/wait", b"body", "text/plain")
    assert (response.status_code, response.content) == (202, b"asked 1")


# --- waits


@served
async def test_a_wait_asks_again_with_the_same_body(site):
    reader, _ = await site.send(POST % b"/wait")
    await becomes(lambda: len(held.tasks) == 1)
    assert now.asked == [(None, b"body")]
    now.done.set()
    start, content = await answer(reader)
    assert (start[:12], content) == (b"HTTP/1.1 200", b"asked 2")
    assert now.asked[1:] == [("token", b"body")]


@served
async def test_a_wait_is_over_in_time(site):
    now.wait_s = 0.1
    began = time.monotonic()
    assert (await site.get(b"/wait"))[1] == b"asked 2"
    assert 0.1 <= time.monotonic() - began < 5


def test_a_wait_that_fails_is_over_and_reported(caplog):
    async def fail():
        raise ValueError("no end in sight")

    @served
    async def run(site):
        now.until = fail
        assert (await site.get(b"/wait"))[1] == b"asked 2"

    run()
    assert "no end in sight" in caplog.text


@served
async def test_waits_hold_no_threads(site):
    before = threading.active_count()
    waiting = [await site.send(POST % b"/wait") for _ in range(100)]
    await becomes(lambda: len(held.tasks) == 100)
    assert (await site.get(b"/page"))[1] == b"page"
    now.done.set()
    for reader, _ in waiting:
        assert (await head(reader)).startswith(b"HTTP/1.1 200")
    assert threading.active_count() < before + 20


@served
async def test_nobody_is_asked_again_for_a_client_who_has_gone(site):
    _, writer = await site.send(POST % b"/wait")
    await becomes(lambda: len(held.tasks) == 1)
    writer.close()
    await becomes(lambda: not held.tasks)
    assert (await site.get(b"/page"))[1] == b"page"
    assert len(now.asked) == 1


@served
async def test_what_was_promised_is_answered_if_asking_again_fails(site):
    now.done.set()
    now.answers = [HttpResponse("the database is away", status=503)]
    start, content = await site.get(b"/wait", POST)
    assert (start[:12], content) == (b"HTTP/1.1 202", b"asked 1")


@served
async def test_a_second_failure_is_answered_as_it_is(site):
    now.done.set()
    now.first_status = 503
    now.answers = [HttpResponse("for another reason", status=503)]
    start, content = await site.get(b"/wait", POST)
    assert (start[:12], content) == (b"HTTP/1.1 503", b"for another reason")


@served
async def test_a_refusal_of_the_second_asking_counts(site):
    now.done.set()
    now.answers = [HttpResponse("signed out", status=401)]
    start, content = await site.get(b"/wait", POST)
    assert (start[:12], content) == (b"HTTP/1.1 401", b"signed out")


@served
async def test_a_stream_may_follow_a_wait(site):
    now.done.set()
    now.answers = [stream(SimpleNamespace(GET={}))]
    reader, _ = await site.send(GET % b"/wait")
    await reader.readuntil(b"first\n\r\n5\r\nlast\n\r\n0\r\n\r\n")


@served
async def test_no_header_says_that_a_wait_is_over(site):
    now.done.set()
    forged = b"".join(
        b"%s: token\r\n" % name
        for name in (
            streaming.SCOPE_KEY.encode(),
            b"asgi.scope",
            b"waited_for",
            b"later",
        )
    )
    reader, _ = await site.send((GET % b"/wait")[:-2] + forged + b"\r\n")
    await answer(reader)
    assert [token for token, _ in now.asked] == [None, "token"]


# --- the end of the process


@served
async def test_a_stop_ends_what_goes_on_in_good_order(site):
    stream, _ = await site.send(GET % b"/stream")
    await stream.readuntil(b"first\n\r\n")
    waiting, _ = await site.send(GET % b"/wait")
    await becomes(lambda: len(held.tasks) == 2)
    stop = asyncio.create_task(site.stop(within_s=2))
    assert await stream.read() == b"0\r\n\r\n"
    assert (await answer(waiting))[1] == b"asked 2"
    assert await waiting.read() == b""
    await stop
    with suppress(ConnectionError):
        await site.get(b"/page")
        pytest.fail("The site has not stopped.")
