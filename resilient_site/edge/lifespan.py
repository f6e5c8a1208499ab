"""ASGI lifespan: starts and stops what lives as long as the web process."""

import asyncio
from contextlib import suppress

from django.conf import settings
from django.db import connection

from resilient_site.edge import edge_metrics, health_check
from resilient_site.edge.asgi_types import Receive, Send
from resilient_site.edge.cache.invalidation import subscriber
from resilient_site.edge.cache.store import response_store
from resilient_site.health.monitor import Report, health_monitor
from resilient_site.health.views import render_page
from resilient_site.observability import metrics, tracing
from resilient_site.observability.logging import line_handler
from resilient_site.postgres.heartbeat import heartbeat
from resilient_site.resilience.breaker_overrides import breaker_overrides

WRITE_TIMEOUT_S = 5.0


def start() -> None:
    line_handler().start()
    tracing.start("web")
    if connection.vendor == "postgresql":
        heartbeat.start()
    if settings.REDIS_URL:
        subscriber.start()
    breaker_overrides.start()
    health_check.register_all()
    health_monitor.start()
    render_page(Report(()))  # the first time takes a tenth of a second
    metrics.samplers.append(edge_metrics.sample)
    metrics.start("web")


def stop() -> None:
    metrics.stop()
    metrics.samplers.remove(edge_metrics.sample)
    tracing.stop()
    health_monitor.stop()
    breaker_overrides.stop()
    subscriber.stop()
    heartbeat.stop()
    with suppress(TimeoutError):  # a disk that does not answer
        response_store.flush().result(WRITE_TIMEOUT_S)


async def run(receive: Receive, send: Send) -> None:
    await receive()
    start()
    writing = asyncio.create_task(response_store.write_behind())
    await send({"type": "lifespan.startup.complete"})
    await receive()
    writing.cancel()
    stop()
    await send({"type": "lifespan.shutdown.complete"})
