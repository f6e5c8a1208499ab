"""How gunicorn runs the site: asynchronous edge processes with threads for Django."""

import os
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.urls import get_resolver

from resilient_site.observability import memory_usage
from resilient_site.operations.worker_recycling import succession

wsgi_app = "resilient_site.asgi:application"
# The one place that names the worker. Long-lived connections cost it no thread.
worker_class = "resilient_site.edge.worker.Worker"
workers = settings.WEB_PROCESSES

# Django is loaded once and shared by the workers, as memory and as start-up time.
preload_app = True

# A worker whose event loop stands still for so long is replaced.
timeout = 30
# Requests under way have so long to end when the site is stopped.
graceful_timeout = 20
# Longer than a proxy keeps its connections, so that the proxy closes first.
keepalive = settings.WEB_KEEP_ALIVE_S

# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
control_socket_disable = True

# Whose word on the client's address and scheme counts. Without a proxy: nobody's, as
# the lock-out of sign-ins goes by the address.
forwarded_allow_ips = os.environ.get(
    "FORWARDED_ALLOW_IPS", "" if settings.EMBEDDED else "127.0.0.1,::1"
)

# The requests are told of by the edge.
accesslog = None
logconfig_dict = settings.LOGGING


def on_starting(server: Any) -> None:
    """Have SIGUSR2 start a new master as this one was started, `-m gunicorn` too."""
    server.START_CTX["args"] = sys.orig_argv


def when_ready(server: Any) -> None:
    """Load what a first request would load, once for all workers."""
    get_resolver().url_patterns  # noqa: B018


def pre_fork(server: Any, worker: Any) -> None:
    memory_usage.freeze()


def child_exit(server: Any, worker: Any) -> None:
    """Start nobody in place of one that made way: his successor is there already."""
    if succession.has_left(worker.pid):
        server.num_workers = max(server.cfg.workers, server.num_workers - 1)
