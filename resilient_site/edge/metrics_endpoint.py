"""The metrics endpoint: the page of all processes, for the clients that may read it.

A thread of its own renders the page: Django's may all be waiting for a database that
hangs, and the event loop would stand still meanwhile.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

from django.conf import settings

from resilient_site.cache.memory import memory_usage
from resilient_site.edge import wsgi_bridge
from resilient_site.edge.asgi_types import Send
from resilient_site.edge.cache.cached_response import Headers, send_answer
from resilient_site.edge.cache.invalidation_pubsub import subscriber
from resilient_site.edge.cache.keys import copies
from resilient_site.edge.request import Incoming, Kind
from resilient_site.errors import NotFound
from resilient_site.health.components import Status
from resilient_site.health.monitor import health_monitor
from resilient_site.observability import metrics
from resilient_site.observability.metrics import follow

PATHS = {"/metrics", "/metrics/"}
# Requests through a proxy that FORWARDED_ALLOW_IPS does not name have its address.
FORWARDED = {b"x-forwarded-for", b"forwarded", b"x-real-ip"}

_thread = ThreadPoolExecutor(1, thread_name_prefix="scrape")


async def answer(request: Incoming, send: Send, extra: Headers) -> bool:
    """Send the page of metrics; raise NotFound if the client may not read it."""
    if request.path not in PATHS:
        return False
    if not request.is_safe or not may_read(request):
        raise NotFound
    loop = asyncio.get_running_loop()
    body = await loop.run_in_executor(_thread, metrics.render)
    headers = [
        (b"content-type", metrics.CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        *extra,
    ]
    await send_answer(request, send, 200, headers, body)
    return True


def may_read(request: Incoming) -> bool:
    """Return whether METRICS_ALLOW names the address of the client."""
    client = request.scope.get("client")
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return False
    if address.is_loopback and FORWARDED & request.headers.keys():
        return False
    return any(address in ip_network(allowed) for allowed in settings.METRICS_ALLOW)


def sample() -> None:
    """Set the metrics of the edge that change all the time."""
    gate = wsgi_bridge.admission
    running, queued = gate.running, gate.queued
    metrics.ADMISSION_LIMIT.set(gate.limit.current if gate.is_on else gate.threads)
    for kind in Kind:
        word = kind.name.lower()
        metrics.ADMISSION_RUNNING.labels(word).set(running[kind])
        metrics.ADMISSION_QUEUED.labels(word).set(queued[kind])
        follow(metrics.ADMISSION_ADMITTED.labels(word), gate.admitted[kind])
        follow(metrics.ADMISSION_REJECTED.labels(word), gate.rejected[kind])
    metrics.REDIS_SUBSCRIBED.set(subscriber.is_listening.is_set())
    metrics.CACHE_BYTES.labels("answers").set(copies.bytes)
    metrics.CACHE_BYTES.labels("memory").set(memory_usage().bytes)
    if health_monitor.is_running:
        for status in health_monitor.report().components:
            is_up = status.status is Status.PASS
            metrics.COMPONENT_UP.labels(status.name).set(is_up)


def start() -> None:
    metrics.samplers.append(sample)
    metrics.start("web")


def stop() -> None:
    metrics.stop()
    metrics.samplers.remove(sample)
