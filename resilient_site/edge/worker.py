"""The gunicorn worker: Uvicorn's, which stops in time, quickly if it must."""

import asyncio
import resource
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from django.conf import settings
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from resilient_site.edge.connection_limiter import crowd
from resilient_site.edge.http_protocol import Protocol
from resilient_site.edge.streaming import held
from resilient_site.observability import memory_usage
from resilient_site.operations import hot_reload
from resilient_site.operations.worker_recycling import Term, succession

# Idle connections cost little, and 1,024 files, the usual limit, are few for them.
MOST_FILES = 16_384
# Of the files this process may open; the rest is for the database, bodies and logs.
CONNECTIONS_SHARE = 0.75
TICKS_PER_SECOND = 10  # Uvicorn's
# After so long a thread hands over to another one, such as that of the event loop. By
# default it is ten times as long: then each turn of the loop waits for it.
SWITCH_S = 0.0005
# Who waits to be let in besides the one whom the loop lets in at each turn.
ACCEPTED_AT_ONCE = 64
# Longer than keepalive_timeout of the upstream in deploy/nginx/nginx.conf.
PROXY_IDLE_S = 6.0


def raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # a system may have yet another limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft != resource.RLIM_INFINITY:
        crowd.most = min(crowd.most, int(soft * CONNECTIONS_SHARE))


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._arriving: set[asyncio.Task[Any]] = set()
        crowd.on_arrival = partial(self._accept_waiting, sockets or [])
        memory_usage.freeze()
        self.term = Term(succession, settings.WEB_MAX_REQUESTS, settings.WEB_MAX_BYTES)
        succession.announce()
        hot_reload.relieve_predecessor()

    def _accept_waiting(self, listeners: list[socket.socket]) -> None:
        """Let in who waits at the door: one in a turn is few when turns are long."""
        if crowd.is_leaving:
            return
        loop = asyncio.get_running_loop()
        for listener in listeners:
            for _ in range(ACCEPTED_AT_ONCE):
                try:
                    connection, _ = listener.accept()
                except OSError:  # nobody is there, or no file for him
                    break
                connection.setblocking(False)
                arrival = loop.connect_accepted_socket(self._protocol, connection)
                task = loop.create_task(arrival)
                self._arriving.add(task)
                task.add_done_callback(self._has_arrived)

    def _protocol(self) -> asyncio.Protocol:
        return Protocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    def _has_arrived(self, task: "asyncio.Task[Any]") -> None:
        self._arriving.discard(task)
        if not task.cancelled():
            task.exception()  # he may have gone at once

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            now = asyncio.get_running_loop().time()
            crowd.sweep(self.server_state.connections, now)
        if crowd.is_leaving:
            if not self.server_state.connections and not self.server_state.tasks:
                self.should_exit = True
        elif self.term.is_over(crowd.requests):
            self._leave()
        return await super().on_tick(counter)

    def _leave(self) -> None:
        """Accept no more; whoever is here is served to the end."""
        for server in self.servers:
            server.close()
        crowd.leave(self.server_state.connections)
        held.end()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        held.end()  # the stop would wait for them
        for server in self.servers:
            server.close()
        crowd.leave(self.server_state.connections)
        # Who was let in a moment ago has hardly said what he wants: hear him out.
        await asyncio.sleep(0.1)
        await self._let_proxies_leave()
        await super().shutdown(sockets)

    async def _let_proxies_leave(self) -> None:
        """Close no connection that a proxy may be sending a request on just now.

        It is told with its next answer to connect anew, and closes idle ones itself.
        """
        connections: set[Any] = self.server_state.connections
        loop = asyncio.get_running_loop()
        end = loop.time() + PROXY_IDLE_S
        while any(one.is_from_proxy for one in connections) and loop.time() < end:
            if self.force_exit:  # asked to stop once more: wait for nobody
                return
            await asyncio.sleep(0.1)


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "server_header": False,
    }

    def init_process(self) -> None:
        raise_file_limit()
        sys.setswitchinterval(SWITCH_S)
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
