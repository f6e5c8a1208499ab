"""Health check of the edge."""

import pytest

from resilient_site.edge.admission import Admission
from resilient_site.edge.health_check import OVERLOADED_FOR_S, Edge
from resilient_site.edge.request import Priority
from resilient_site.health.components import Status

pytestmark = pytest.mark.once


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
