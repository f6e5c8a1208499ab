"""Hits that the protocol answers itself: the same as by the long way."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop

from resilient_site import asgi
from resilient_site.edge import fast_path
from resilient_site.edge.cache.invalidation import generations
from resilient_site.edge.connection_limiter import crowd
from resilient_site.edge.streaming import held
from resilient_site.edge.worker import Server, Worker
from tests.resilient_site.edge.clients import run
from tests.resilient_site.edge.views import now

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.resilient_site.edge.views"),
]

# What differs from one answer to the next.
OF_ONE_ANSWER = re.compile(rb"(?im)^(x-request-id|date|age|cache-status): .*\r\n")
ETAG = b'"v1"'


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> "Client":
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        self.reader, self.writer = streams
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, *lines: str, target: str = "/thing", method: str = "GET"):
        self.send(*lines, target=target, method=method)
        return await self.answer(method)

    def send(self, *lines: str, target: str = "/thing", method: str = "GET") -> None:
        head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""]
        self.writer.write("\r\n".join(head).encode())

    async def answer(self, method: str = "GET") -> bytes:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or method == "HEAD":
            return head
        return head + await self.reader.readexactly(int(length[1]))


@asynccontextmanager
async def serving(**config: str | int) -> AsyncIterator[int]:
    options = Worker.CONFIG_KWARGS | {"lifespan": "off", "log_config": None} | config
    config = uvicorn.Config(asgi.application, access_log=False, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(config)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await task
    held.is_ending = crowd.is_leaving = False  # this process goes on


@pytest.fixture
def taken(monkeypatch) -> list[bool]:
    """Which requests went the short way."""
    taken: list[bool] = []
    answer = fast_path.answer

    def noted(*args):
        found = answer(*args)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(fast_path, "answer", noted)
    return taken


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        ("GET", []),
        ("HEAD", []),
        ("GET", [f"If-None-Match: {ETAG.decode()}"]),
        ("GET", ["If-None-Match: *"]),
        ("GET", ["Cookie: csrftoken=x"]),
        ("GET", ["Cache-Control: no-cache"]),
    ],
)
def test_it_is_the_same_answer(method, lines, taken, monkeypatch):
    @run
    async def test():
        async with serving() as port, Client(port) as client:
            await client.ask()
            short = await client.ask(*lines, method=method)
            assert taken == [False, True]
            monkeypatch.setattr(fast_path, "answer", lambda *args: None)
            long = await client.ask(*lines, method=method)
            fields = [
                sorted(OF_ONE_ANSWER.sub(b"", a).split(b"\r\n")) for a in (short, long)
            ]
            assert fields[0] == fields[1]
            for name in (b"x-request-id", b"cache-status", b"age", b"date"):
                assert name in short.lower()
        assert len(now.asked) == 1

    test()


@pytest.mark.parametrize(
    "lines",
    [
        ["Cookie: sessionid=x"],
        ["Authorization: Token x"],
        ["Connection: close"],
        ["X-Forwarded-Proto: https"],
        ["Content-Length: 1"],
    ],
)
def test_what_is_not_plainly_a_hit_goes_the_long_way(lines, taken):
    @run
    async def test():
        async with serving() as port:
            async with Client(port) as client:
                await client.ask()
            taken.clear()
            async with Client(port) as client:
                client.send(*lines)
                if lines == ["Content-Length: 1"]:
                    client.writer.write(b"x")
                assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
                assert not any(taken)

    test()


@pytest.mark.parametrize(
    ("proxies", "expected"),
    [("127.0.0.1", [False, False, True]), ("", [False, True, True])],
)
def test_of_the_scheme_a_trusted_proxy_is_believed(proxies, expected, taken):
    @run
    async def test():
        async with serving(forwarded_allow_ips=proxies) as port, Client(port) as client:
            await client.ask()
            await client.ask("X-Forwarded-Proto: https")
            await client.ask("X-Forwarded-Proto: https")
        assert taken == expected

    test()


def test_a_fault_on_the_short_way_leaves_the_long_one(monkeypatch, caplog):
    def fail(*args):
        raise OverflowError

    monkeypatch.setattr(fast_path, "answer", fail)

    @run
    async def test():
        async with serving() as port, Client(port) as client:
            for _ in range(2):
                assert (await client.ask()).startswith(b"HTTP/1.1 200 ")

    test()
    assert "The short way failed" in caplog.text


def test_the_id_that_is_offered_is_told(taken):
    @run
    async def test():
        trace = "0af7651916cd43dd8448eb211c80319c"
        async with serving() as port, Client(port) as client:
            await client.ask()
            offered = await client.ask("X-Request-ID: mine")
            traced = await client.ask(f"traceparent: 00-{trace}-b7ad6b7169203331-01")
            own = await client.ask("X-Request-ID: not/acceptable")
        assert b"x-request-id: mine\r\n" in offered
        assert f"x-request-id: {trace}\r\n".encode() in traced
        assert re.search(rb"x-request-id: [0-9a-f]{32}\r\n", own)
        assert taken == [False, True, True, True]

    test()


def test_answers_keep_the_order_of_their_requests(taken):
    @run
    async def test():
        async with serving() as port, Client(port) as client:
            await client.ask()
            targets = ["/thing", "/thing?q=new", "/thing", "/nowhere", "/thing"]
            for target in targets:
                client.send(target=target)
            answers = [await client.answer() for _ in targets]
        assert [int(one.split()[1]) for one in answers] == [200, 200, 200, 404, 200]
        queries = [b"q=new" in one.partition(b"\r\n\r\n")[2] for one in answers]
        assert queries == [False, True, False, False, False]

    test()


def test_who_asks_no_more_is_left_so_long_after_his_last_request(taken):
    @run
    async def test():
        async with serving(timeout_keep_alive=1) as port, Client(port) as client:
            await client.ask()
            await client.ask()
            await asyncio.sleep(0.5)
            await client.ask()
            began = time.monotonic()
            assert await asyncio.wait_for(client.reader.read(), 20) == b""
            assert time.monotonic() - began > 0.9
        assert taken == [False, True, True]

    test()


def test_who_is_refused_may_go_on_talking_though_he_was_idle_before(taken):
    @run
    async def test():
        async with serving(timeout_keep_alive=1) as port, Client(port) as client:
            await client.ask()
            await asyncio.sleep(0.6)
            client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await client.reader.read()).startswith(b"HTTP/1.1 400 ")
            for _ in range(10):
                client.writer.write(b"x")
                await asyncio.sleep(0.1)
            assert not client.writer.transport.is_closing()

    test()


def test_a_change_is_seen_at_once(taken):
    @run
    async def test():
        async with serving() as port, Client(port) as client:
            await client.ask()
            await client.ask()
            generations.renew(["thing"])
            await client.ask()
        assert taken == [False, True, False]
        assert len(now.asked) == 2

    test()


def test_many_who_come_at_once_are_let_in_in_a_few_turns():
    async def let_in() -> int:
        async with serving() as port:
            address = "127.0.0.1", port
            callers = [socket.create_connection(address) for _ in range(50)]
            for _ in range(10):
                await asyncio.sleep(0)
            number = len(crowd._expected)
            for caller in callers:
                caller.close()
            return number

    # The loop that the site runs on, which lets in one at each turn.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(let_in()) == 50
