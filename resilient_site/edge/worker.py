"""gunicorn worker: the stock Uvicorn worker, configured.

nginx (deploy/nginx) limits headers, connections and slow clients.
"""

import os
import resource
import signal
import socket
import sys
from types import FrameType

import uvicorn
from django.conf import settings
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from resilient_site.edge.streaming import held
from resilient_site.observability import memory_usage
from resilient_site.operations import hot_reload
from resilient_site.operations.worker_recycling import Term, succession

# How long a thread runs before the event loop gets its turn; the default is 5 ms.
SWITCH_S = 0.0005
FILES_MAX = 16_384


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        memory_usage.freeze()
        self.term = Term(succession, settings.WEB_MAX_REQUESTS, settings.WEB_MAX_BYTES)
        succession.announce()
        hot_reload.relieve_predecessor()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # ten are a second
            self.should_exit |= self.term.is_over(self.server_state.total_requests)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        held.end()  # streams would go on until the time for the stop is up
        await super().shutdown(sockets)


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        # Below gunicorn's graceful_timeout, so that the lifespan ends, too.
        "timeout_graceful_shutdown": 15,
        "timeout_notify": 0.5,
    }

    async def callback_notify(self) -> None:
        self.notify()
        if os.getppid() != self.ppid:  # the master was killed
            signal.raise_signal(signal.SIGTERM)

    def init_process(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:  # a connection is a file, and 1,024 are the usual limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES_MAX), hard))
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
