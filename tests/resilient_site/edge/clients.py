"""Clients of the edge, and what they are answered."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from urllib.parse import unquote

from django.db import connections

from resilient_site.asgi import application
from resilient_site.edge.cache.invalidation import PRECISION_NS
from tests.resilient_site.edge.views import now

ORIGIN_THREADS = 8
HOST = (b"host", b"localhost")


@dataclass
class Answer:
    status: int = 0
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        return {n.decode(): v.decode("latin-1") for n, v in self.raw_headers}

    @property
    def cached(self) -> str:
        return self.headers.get("cache-status", "")

    @property
    def is_hit(self) -> bool:
        return "; hit" in self.cached

    def json(self) -> Any:
        return json.loads(self.body)

    async def take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.raw_headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


async def get(target: str = "/thing", method: str = "GET", **headers: str) -> Answer:
    fields = [(n.lower().replace("_", "-"), v) for n, v in headers.items()]
    return await ask(target, method, [(n.encode(), v.encode()) for n, v in fields])


async def ask(
    target: str,
    method: str = "GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    pieces: Sequence[bytes | None] | None = None,
    gone: asyncio.Event | None = None,
) -> Answer:
    """Ask as a server would, with the body in `pieces`, until `gone` is set.

    After a piece that is None nothing more comes.
    """
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
        "method": method, "scheme": "http", "path": unquote(path),
        "query_string": query.encode("latin-1"), "root_path": "",
        "headers": [HOST, *(headers or [])],
        "client": ("127.0.0.1", 1), "server": ("localhost", 80),
    }  # fmt: skip
    left, gone = list(pieces or [b""]), gone or asyncio.Event()

    async def receive() -> Any:
        piece = left.pop(0) if left else None
        if piece is not None:
            return {"type": "http.request", "body": piece, "more_body": bool(left)}
        await gone.wait()
        return {"type": "http.disconnect"}

    answer = Answer()
    await asyncio.create_task(application(scope, receive, answer.take))
    return answer


def run(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of its own."""

    @wraps(test)
    def synchronous(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(90):
                # Else what a fixture has just committed would outdate the first read.
                await asyncio.sleep(2 * PRECISION_NS / 1e9)
                await test(*args, **kwargs)
                now.go_on.set()
                # Also what was overtaken: no thread may outlive its loop.
                while left := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(left)

        asyncio.run(limited())

    return synchronous


async def elsewhere[**P, R](
    function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call what uses the database, in a thread that keeps no connection to it."""

    def call() -> R:
        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


async def becomes(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another thread that has no event."""
    while not condition():
        await asyncio.sleep(0.002)
