"""The gunicorn worker: Uvicorn's, which stops in time, quickly if it must."""

import asyncio
import resource
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from gunicorn.arbiter import Arbiter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

from resilient_site.later import CUT_KEY, held

# Idle connections cost little, and 1,024 files, the usual limit, are few for them.
MOST_FILES = 16_384


def raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # a system may have yet another limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Protocol(HttpToolsProtocol):
    """Tells every request that its client has gone, and lets it cut him off.

    Uvicorn's own tells the latest: a long answer with a request waiting behind it
    would go on for nobody. And it closes only when all that it sent has been read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycles: list[Any] = []

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycles = [cycle for cycle in self.cycles if not cycle.response_complete]
        self.cycles.append(self.cycle)
        scope: dict[str, Any] = self.cycle.scope  # type: ignore[assignment]
        scope[CUT_KEY] = self.transport.abort

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in self.cycles:
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        held.end()  # the stop would wait for them
        for server in self.servers:
            server.close()
        # Who was let in a moment ago has hardly said what he wants: hear him out.
        await asyncio.sleep(0.1)
        await super().shutdown(sockets)


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {"loop": "uvloop", "http": Protocol, "server_header": False}

    def init_process(self) -> None:
        raise_file_limit()
        super().init_process()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = Server(self.config)
        self._install_sigquit_handler()
        await server.serve(self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Pass gunicorn's SIGQUIT on, which Uvicorn's server does not know."""
        signal.raise_signal(signal.SIGINT)
