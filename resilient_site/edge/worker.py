"""gunicorn worker: the stock Uvicorn worker, configured.

nginx (deploy/nginx) limits headers, connections and slow clients; gunicorn.conf.py has
the limits on time and requests.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from resilient_site.edge.streaming import in_flight_responses

# How long a thread runs before the event loop gets its turn; the default is 5 ms.
SWITCH_S = 0.0005
LEAVE_S = 0.5


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Event streams would go on until the time for the stop is up.
        in_flight_responses.end()
        for server in self.servers:
            server.close()
        # Uvicorn closes idle connections at once, and with them requests on their way.
        # Busy clients leave before that with the next response.
        self.server_state.default_headers.append((b"connection", b"close"))
        end = time.monotonic() + LEAVE_S
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "timeout_notify": 0.5,
        # Below gunicorn's graceful_timeout, so that the lifespan ends, too.
        "timeout_graceful_shutdown": 15,
    }

    async def callback_notify(self) -> None:
        self.notify()
        if os.getppid() != self.ppid:  # the master was killed
            signal.raise_signal(signal.SIGTERM)

    def init_process(self) -> None:
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
