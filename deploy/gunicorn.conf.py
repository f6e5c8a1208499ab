"""gunicorn's configuration: asynchronous web processes with threads for Django."""

import gc
import os
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.urls import get_resolver

from resilient_site.observability import multiprocess

# What it writes is for its user alone.
os.umask(0o077)
multiprocess.share(settings.DATA_DIR)

wsgi_app = "resilient_site.asgi:application"
worker_class = "resilient_site.edge.worker.Worker"
workers = settings.WEB_PROCESSES

# Django is loaded once, before the fork: workers share its memory and start fast.
preload_app = True

# A worker whose event loop is blocked for so long is killed and replaced.
timeout = 30
# One that is stopped (SIGSTOP) is killed after two of these checks.
STOPPED_CHECK_S = 0.5
# Requests in flight have so long to finish when a worker stops.
graceful_timeout = 20
# A worker stops after so many requests; its successor takes the waiting connections.
max_requests = settings.WEB_MAX_REQUESTS
max_requests_jitter = max_requests // 5
# Longer than a proxy keeps its connections, so that the proxy closes first.
keepalive = settings.WEB_KEEP_ALIVE_S

# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
control_socket_disable = True

# Proxies that may name the client's address and scheme. None by default without a
# proxy, as rate limits and the lock-out of sign-ins go by the address.
forwarded_allow_ips = os.environ.get(
    "FORWARDED_ALLOW_IPS", "" if settings.EMBEDDED else "127.0.0.1,::1"
)

# resilient_site/edge/access_log.py logs requests.
accesslog = None
logconfig_dict = settings.LOGGING

# A connection is a file, and the usual soft limit of 1,024 is low.
FILES_MAX = 16_384
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if soft != resource.RLIM_INFINITY and soft < FILES_MAX:
    most = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def when_ready(server: Any) -> None:
    """Load what a first request would load, once for all workers."""
    get_resolver().url_patterns  # noqa: B018
    # By a timer, not a thread: the workers are forked from this process.
    seen: set[int] = set()
    kill = partial(kill_stopped, server.WORKERS, seen)
    signal.signal(signal.SIGALRM, lambda *_: kill())
    signal.setitimer(signal.ITIMER_REAL, STOPPED_CHECK_S, STOPPED_CHECK_S)


def on_exit(server: Any) -> None:
    # Python restores the handler before it ends: the signal would then kill it.
    signal.setitimer(signal.ITIMER_REAL, 0)


def kill_stopped(workers: Iterable[int], seen: set[int]) -> None:
    """Kill each worker that is stopped (SIGSTOP), as it was at the last check.

    Its kernel goes on taking connections and requests; a proxy waits for it, and knows
    not before it is killed that another process has to be asked.
    """
    stopped = set()
    for pid in tuple(workers):
        with suppress(OSError):
            status = Path(f"/proc/{pid}/stat").read_text()
            if status.rpartition(")")[2].split()[0] == "T":
                stopped.add(pid)
    for pid in stopped & seen:
        os.kill(pid, signal.SIGKILL)
    seen.clear()
    seen |= stopped


def pre_fork(server: Any, worker: Any) -> None:
    # The collector of a worker then writes to none of their pages, which stay shared.
    gc.collect()
    gc.freeze()


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.remove_dead()
