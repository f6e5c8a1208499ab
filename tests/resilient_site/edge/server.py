"""The edge in this process, behind Uvicorn as the workers run it."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn

from resilient_site import asgi
from resilient_site.edge.streaming import in_flight_responses
from resilient_site.edge.worker import Server, Worker
from tests.resilient_site.edge.clients import becomes

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Site:
    def __init__(self, server: Server, listener: socket.socket) -> None:
        self.server, self.port = server, listener.getsockname()[1]
        self.run = asyncio.create_task(server.serve([listener]))
        self.peers: list[asyncio.StreamWriter] = []

    async def send(
        self, request: bytes, source: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0)
        )
        self.peers.append(writer)
        writer.write(request)
        return reader, writer

    async def stop(self) -> None:
        self.server.should_exit = True
        await asyncio.shield(self.run)

    async def get(
        self, target: bytes, request: bytes = GET, source: str = "127.0.0.1"
    ) -> tuple[bytes, bytes]:
        reader, _ = await self.send(request % target, source)
        return await answer(reader)


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read a whole response: its start and its content."""
    start = await reader.readuntil(b"\r\n\r\n")
    length = int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return start, await reader.readexactly(length)


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    options = Worker.CONFIG_KWARGS | {
        "lifespan": "off",  # its threads would outlive the test
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
            in_flight_responses.is_ending = False  # of this process


def served(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test, whose first argument is a site of its own."""

    def synchronous(**fixtures: object) -> None:
        async def run() -> None:
            async with asyncio.timeout(90), serving() as site:
                await test(site, **fixtures)

        asyncio.run(run())

    synchronous.__name__, synchronous.__doc__ = test.__name__, test.__doc__
    _, *others = inspect.signature(test).parameters.values()
    synchronous.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
    return synchronous
