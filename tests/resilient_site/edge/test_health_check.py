"""Health check of the edge."""

import asyncio

import pytest
from django.http import HttpResponse

from resilient_site.edge import lifespan, wsgi_bridge
from resilient_site.edge.admission import Admission
from resilient_site.edge.health_check import OVERLOADED_FOR_S, Edge
from resilient_site.edge.request import Priority
from resilient_site.health.components import Status
from resilient_site.observability import metrics
from tests.resilient_site.edge.clients import ORIGIN_THREADS, ask, becomes, run
from tests.resilient_site.edge.views import held, now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]


def test_edge_is_degraded_for_a_while_after_a_rejection(settings):
    now, admission = [100.0], Admission(4, settings.ADMISSION_PATIENCE_S)
    edge = Edge(admission, lambda: now[0])
    assert edge.check().status is Status.PASS
    admission.rejected[Priority.ANONYMOUS_READ] += 3
    result = edge.check()
    assert result.status is Status.WARN
    assert "3 rejected" in dict(result.figures)["Reads, anonymous"]
    now[0] += OVERLOADED_FOR_S - 1
    assert edge.check().status is Status.WARN
    now[0] += 2
    assert edge.check().status is Status.PASS


def test_rejections_are_in_the_metrics():
    """Of each class, as soon as they are sampled."""
    counters = [metrics.ADMISSION_REJECTED.labels(one.name.lower()) for one in Priority]

    def sampled() -> list[float]:
        lifespan.sample()
        return [counter._value.get() for counter in counters]

    before = sampled()
    for number, one in enumerate(Priority):
        wsgi_bridge.admission.rejected[one] += number
    assert sampled() == [value + n for n, value in enumerate(before)]


@run
async def test_probes_answer_while_every_thread_waits(monkeypatch):
    patience_s = dict.fromkeys(Priority, 60.0)
    monkeypatch.setattr(wsgi_bridge.admission, "patience_s", patience_s)
    now.respond = held(lambda: HttpResponse("done"))
    now.go_on.clear()
    waiting = [
        asyncio.create_task(ask("/plain", "POST")) for _ in range(3 * ORIGIN_THREADS)
    ]
    await becomes(now.entered.is_set)
    for path in ("/livez", "/readyz", "/status/", "/metrics"):
        assert (await ask(path)).status == 200
    assert not any(request.done() for request in waiting)
