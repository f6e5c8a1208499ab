"""Requests that are refused while they are read: their connections go on as before."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from resilient_site.edge import fast_path
from resilient_site.edge.connection_limiter import crowd
from resilient_site.edge.http_protocol import Protocol

pytestmark = pytest.mark.once

GET = b"GET /refused HTTP/1.1\r\nHost: localhost\r\n\r\n"
WELCOME = GET.replace(b"refused", b"welcome")
POST = GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 2\r\n\r\nok"


REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"


async def application(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def answers(monkeypatch) -> Callable[..., list[bytes]]:
    """Send bytes to a server of this protocol; return the statuses that come back."""

    def at_once(method: bytes, target: bytes, *_: Any) -> bytes | None:
        return REFUSAL if target == b"/refused" else None

    monkeypatch.setattr(fast_path, "answer", at_once)

    def ask(*sent: bytes, **config: Any) -> list[bytes]:
        return asyncio.run(
            _exchange(sent, Config(application, **{"access_log": False} | config))
        )

    return ask


async def _exchange(sent: tuple[bytes, ...], config: Config) -> list[bytes]:
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1"
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        statuses = []
        for request in sent:
            writer.write(request)
            for _ in range(request.count(b" HTTP/1.1")):
                head = await reader.readuntil(b"\r\n\r\n")
                statuses.append(head.split()[1])
                await reader.readexactly(2)
        (protocol,) = state.connections
        assert protocol.is_idle()
        assert protocol in crowd._expected
        writer.close()
        await writer.wait_closed()
    return statuses


def test_it_is_refused_and_the_next_one_answered(answers):
    assert answers(GET, WELCOME, GET) == [b"503", b"200", b"503"]


def test_what_came_before_the_answer_to_another_is_answered_in_order(answers):
    # Who waits behind another one goes the long way.
    assert answers(WELCOME + WELCOME + GET, GET) == [b"200", b"200", b"200", b"503"]
    assert answers(GET + WELCOME + GET) == [b"503", b"200", b"200"]


def test_a_request_with_a_body_is_heard_out(answers):
    assert answers(POST, GET) == [b"200", b"503"]


def test_a_log_of_all_requests_misses_none(answers):
    assert answers(GET, access_log=True) == [b"200"]
