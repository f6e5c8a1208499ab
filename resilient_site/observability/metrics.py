"""Metrics of the site, in the standard client library of Prometheus.

Processes that serve share theirs in files (its multiprocess mode, multiprocess.py), and
any of them renders the page of all. What changes all the time is sampled once a second
by a thread of each process.
"""

import gc
import logging
import os
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.db.backends.signals import connection_created
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector

from resilient_site.observability import multiprocess
from resilient_site.observability.logging import line_handler
from resilient_site.observability.memory_usage import resident_bytes
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
NAMESPACE = "resilient_site"
PERIOD_S = 1.0
READS_MAX, READ_AGAIN_S = 10, 0.01
BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

# Series of times at which counters were made; nothing queries them.
disable_created_metrics()  # type: ignore[no-untyped-call]


def counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, namespace=NAMESPACE)


def gauge(name: str, text: str, *labels: str, mode: Any = "livesum") -> Gauge:
    """Return a gauge: the processes are added up, or their largest counts."""
    return Gauge(name, text, labels, namespace=NAMESPACE, multiprocess_mode=mode)


def histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(name, text, labels, namespace=NAMESPACE, buckets=BUCKETS_S)


REQUESTS = counter(
    "requests", "Requests answered, by what the edge did for them.",
    "route", "method", "status", "edge",
)  # fmt: skip
REQUEST_DURATION = histogram(
    "request_duration_seconds", "From a request's headers to the end of its response.",
    "route", "method", "status_class",
)  # fmt: skip
BREAKERS = gauge(
    "breakers", "Circuit breakers by state: in how many processes.", "breaker", "state"
)
BREAKER_TRANSITIONS = counter(
    "breaker_transitions", "Changes of a circuit breaker's state.", "breaker", "to"
)
ADMISSION_LIMIT = gauge("admission_limit", "Requests admitted at a time.")
ADMISSION_RUNNING = gauge("admission_running", "Requests in Django.", "kind")
ADMISSION_QUEUED = gauge("admission_queued", "Requests waiting for admission.", "kind")
ADMISSION_ADMITTED = counter("admission_admitted", "Requests admitted.", "kind")
ADMISSION_REJECTED = counter(
    "admission_rejected", "Requests rejected for overload.", "kind"
)
RATE_LIMITED = counter("rate_limited", "Requests rejected with 429.", "policy")
DATABASE_CONNECTIONS = counter(
    "database_connections_opened", "Connections opened to the database."
)
REPLICA_LAG = gauge(
    "replica_lag_seconds", "How far a replica of the database may be behind.",
    "replica", mode="livemax",
)  # fmt: skip
REPLICA_READS = counter(
    "replica_reads", "Requests whose reads went to a replica.", "replica"
)
REDIS_SUBSCRIBED = gauge(
    "redis_subscribed", "Processes subscribed to the invalidations of other machines."
)
COMPONENT_UP = gauge(
    "component_up", "1 while a component of the site works.", "component",
    mode="livemax",
)  # fmt: skip
CACHE_BYTES = gauge("cache_bytes", "Size of the caches in process memory.", "cache")
PROCESSES = gauge("processes", "Processes that serve.", "role")
PROCESSES_STARTED = counter("processes_started", "Processes started.", "role")
RESIDENT_BYTES = gauge("resident_bytes", "Memory of all processes.", "role")
LARGEST_RESIDENT_BYTES = gauge(
    "largest_resident_bytes", "Memory of the largest process.", "role", mode="livemax"
)
GC_COLLECTIONS = counter("gc_collections", "Garbage collections.", "generation")
LOG_LINES_DROPPED = counter(
    "log_lines_dropped", "Log lines that their reader did not take in time."
)

# Requests by route, method, status and `edge`, counted in the event loop: `inc` of a
# counter in multiprocess mode takes as long as a good part of a cache hit.
requests: defaultdict[tuple[str, str, int, str], int] = defaultdict(int)
# What changes all the time: called once a second, in the thread of `start`.
samplers: list[Callable[[], None]] = []
_followed: defaultdict[Counter, float] = defaultdict(float)
_stopping = threading.Event()
_sampling = threading.Lock()


def follow(counter: Counter, total: float) -> None:
    """Raise a counter by what a total kept elsewhere has grown."""
    counter.inc(max(0.0, total - _followed[counter]))
    _followed[counter] = total


def render() -> bytes:
    """Return the page of all processes that share their metrics."""
    _sample()
    registry = _registry()
    for _ in range(READS_MAX):
        try:
            return generate_latest(registry)
        except (struct.error, FileNotFoundError):
            # A process has just opened a file that is still empty, or removed one.
            time.sleep(READ_AGAIN_S)
    return generate_latest(registry)


def _registry() -> CollectorRegistry:
    """Return that of all processes which share their metrics, else that of this one."""
    if not os.path.isdir(os.environ.get(multiprocess.VARIABLE, "")):
        return REGISTRY
    registry = CollectorRegistry(auto_describe=False)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def listen(address: tuple[str, int] | None) -> None:
    """Serve the page at this address, in a thread, where no web process does."""
    if address is None:
        return
    host, port = address
    try:
        start_http_server(port, host, _registry())
    except OSError as error:
        # The work goes on; another program of this machine may serve them.
        logger.warning("Metrics are not served at %s:%d: %s", host, port, error)


def start(role: str) -> None:
    """Count this process, and sample it from now on."""
    multiprocess.remove_dead()
    PROCESSES.labels(role).set(1)
    PROCESSES_STARTED.labels(role).inc()
    connection_created.connect(_count_connection, dispatch_uid="metrics")
    for breaker in breakers.all_breakers():
        breaker.on_transition(_count_transition)
    _stopping.clear()
    threading.Thread(target=_run, args=(role,), name="metrics", daemon=True).start()


def stop() -> None:
    _stopping.set()
    _sample()


def _run(role: str) -> None:
    while not _stopping.is_set():
        try:
            _sample()
            _sample_process(role)
        except Exception:
            logger.exception("The metrics of this process could not be sampled.")
        _stopping.wait(PERIOD_S)


def _sample() -> None:
    with _sampling:
        for (route, method, status, edge), number in list(requests.items()):
            follow(REQUESTS.labels(route, method, str(status), edge), number)
        for sample in samplers:
            sample()


def _sample_process(role: str) -> None:
    RESIDENT_BYTES.labels(role).set(resident_bytes())
    LARGEST_RESIDENT_BYTES.labels(role).set(resident_bytes())
    for generation, stats in enumerate(gc.get_stats()):
        follow(GC_COLLECTIONS.labels(str(generation)), stats["collections"])
    follow(LOG_LINES_DROPPED, line_handler().dropped)
    for breaker in breakers.all_breakers():
        for state in State:
            is_so = breaker.state is state
            BREAKERS.labels(breaker.name, _label(state)).set(is_so)


def _label(state: State) -> str:
    return state.replace(" ", "_")


def _count_transition(name: str, state: State) -> None:
    BREAKER_TRANSITIONS.labels(name, _label(state)).inc()


def _count_connection(**kwargs: object) -> None:
    DATABASE_CONNECTIONS.inc()
