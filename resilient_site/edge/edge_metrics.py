"""Metrics of the edge: what its parts count, sampled for the metrics of the process."""

from resilient_site.cache.memory import memory_usage
from resilient_site.edge import wsgi_bridge
from resilient_site.edge.cache.invalidation import subscriber
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import Priority
from resilient_site.health.components import Status
from resilient_site.health.monitor import health_monitor
from resilient_site.observability import metrics
from resilient_site.observability.metrics import follow


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
    if health_monitor.is_running:
        for status in health_monitor.report().components:
            is_up = status.status is Status.PASS
            metrics.COMPONENT_UP.labels(status.name).set(is_up)
