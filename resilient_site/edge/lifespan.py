"""ASGI lifespan: starts, samples and stops what lives as long as the web process."""

import asyncio
from contextlib import suppress

from django.conf import settings
from django.db import connection

from resilient_site.cache.memory import memory_usage
from resilient_site.edge import health_check, wsgi_bridge
from resilient_site.edge.asgi_types import Receive, Send
from resilient_site.edge.cache.invalidation import invalidations, subscriber
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import Priority
from resilient_site.health.components import Status
from resilient_site.health.monitor import Report, health_monitor
from resilient_site.health.views import render_page
from resilient_site.observability import metrics, tracing
from resilient_site.observability.logging import line_handler
from resilient_site.observability.metrics import follow
from resilient_site.postgres.heartbeat import heartbeat
from resilient_site.postgres.replicas import replicas
from resilient_site.resilience.breaker_overrides import breaker_overrides
from resilient_site.resilience.cache_control import PRIVATE

WRITE_TIMEOUT_S = 5.0


def start() -> None:
    from resilient_site.accounts.watch import account_watch  # needs the apps loaded

    line_handler().start()
    tracing.start("web")
    if connection.vendor == "postgresql":
        heartbeat.start()
        for replica in replicas().values():
            replica.start()
    if settings.REDIS_URL:
        subscriber.start()
    # What has changed while no process was here is not known.
    invalidations.record([PRIVATE])
    account_watch.start()
    breaker_overrides.start()
    health_check.register_all()
    health_monitor.start()
    render_page(Report(()))  # the first time takes a tenth of a second
    metrics.samplers.append(sample)
    metrics.start("web")


def stop() -> None:
    from resilient_site.accounts.watch import account_watch

    metrics.stop()
    metrics.samplers.remove(sample)
    tracing.stop()
    health_monitor.stop()
    breaker_overrides.stop()
    account_watch.stop()
    subscriber.stop()
    heartbeat.stop()
    for replica in replicas().values():
        replica.stop()
    with suppress(TimeoutError):  # a disk that does not answer
        response_store.flush().result(WRITE_TIMEOUT_S)


def sample() -> None:
    """Set the metrics of the edge that change all the time."""
    gate = wsgi_bridge.admission
    running, queued = gate.running, gate.queued
    metrics.ADMISSION_LIMIT.set(gate.limit.current if gate.is_on else gate.threads)
    for priority in Priority:
        word = priority.name.lower()
        metrics.ADMISSION_RUNNING.labels(word).set(running[priority])
        metrics.ADMISSION_QUEUED.labels(word).set(queued[priority])
        follow(metrics.ADMISSION_ADMITTED.labels(word), gate.admitted[priority])
        follow(metrics.ADMISSION_REJECTED.labels(word), gate.rejected[priority])
    metrics.REDIS_SUBSCRIBED.set(subscriber.is_subscribed.is_set())
    metrics.CACHE_BYTES.labels("answers").set(response_store.memory.bytes)
    metrics.CACHE_BYTES.labels("memory").set(memory_usage().bytes)
    for replica in replicas().values():
        metrics.REPLICA_LAG.labels(replica.alias).set(replica.lag_s)
        follow(metrics.REPLICA_READS.labels(replica.alias), replica.requests)
    if health_monitor.is_running:
        for status in health_monitor.report().components:
            is_up = status.status is Status.PASS
            metrics.COMPONENT_UP.labels(status.name).set(is_up)


async def run(receive: Receive, send: Send) -> None:
    await receive()
    start()
    writing = asyncio.create_task(response_store.write_behind())
    await send({"type": "lifespan.startup.complete"})
    await receive()
    writing.cancel()
    stop()
    await send({"type": "lifespan.shutdown.complete"})
