"""The figures of the edge, and who may read those of the whole site.

They are put together in a thread of its own: neither Django's, which may all be busy,
nor the event loop's, which would stand still for a moment.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

from django.conf import settings

from resilient_site.cache.memory import memory_usage
from resilient_site.edge import wsgi_bridge
from resilient_site.edge.cache.cached_response import Headers, send_answer
from resilient_site.edge.cache.invalidation_pubsub import subscriber
from resilient_site.edge.cache.stores import copies
from resilient_site.edge.request import Incoming
from resilient_site.edge.streaming import Send
from resilient_site.errors import NotFound
from resilient_site.health.components import Status
from resilient_site.health.monitor import watch
from resilient_site.observability.metrics import page, process
from resilient_site.observability.metrics.process import Sample, of
from resilient_site.observability.metrics.sharing import teller

PATHS = {"/metrics", "/metrics/"}
# Behind a proxy that is not known as one everybody has its address.
FORWARDED = {b"x-forwarded-for", b"forwarded", b"x-real-ip"}

_thread = ThreadPoolExecutor(1, thread_name_prefix="scrape")


async def answer(request: Incoming, send: Send, extra: Headers) -> bool:
    """Answer who asks for the metrics. Raises NotFound if he may not read them."""
    if request.path not in PATHS:
        return False
    if not request.is_safe or not may_read(request):
        raise NotFound
    loop = asyncio.get_running_loop()
    body = await loop.run_in_executor(_thread, page.render, teller.role)
    headers = [
        (b"content-type", page.TYPE),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        *extra,
    ]
    await send_answer(request, send, 200, headers, body)
    return True


def may_read(request: Incoming) -> bool:
    client = request.scope.get("client")
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return False
    if address.is_loopback and FORWARDED & request.headers.keys():
        return False
    return any(address in ip_network(allowed) for allowed in settings.METRICS_ALLOW)


def samples() -> Iterator[Sample]:
    gate = wsgi_bridge.admission
    yield of("admission_limit", gate.limit.now if gate.is_on else gate.threads)
    for kind in gate.running:
        word = kind.name.lower()
        yield of("admission_running", gate.running[kind], word)
        yield of("admission_queued", len(gate.waiting[kind]), word)
        yield of("admission_admitted", gate.admitted[kind], word)
        yield of("admission_refused", gate.refused[kind], word)
    yield of("redis_subscribed", subscriber.is_listening.is_set())
    yield of("cache_bytes", copies.bytes, "answers")
    yield of("cache_bytes", memory_usage().bytes, "memory")
    if watch.is_watching:
        for standing in watch.report().standings:
            yield of("part_up", standing.status is Status.PASS, standing.name)


def start() -> None:
    process.sources.append(samples)
    teller.start("web")


def stop() -> None:
    teller.stop()
    process.sources.remove(samples)
