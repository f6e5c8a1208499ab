"""Which clients may read /metrics."""

import pytest
from django.test import RequestFactory

from resilient_site.observability.views import may_read

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("client", "headers", "may"),
    [
        ("127.0.0.1", {}, True), ("::1", {}, True), ("10.1.2.3", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("10.9.0.1", {}, True), ("unix", {}, False), (None, {}, False),
    ],
)  # fmt: skip
def test_metrics_allow_decides_which_clients_may_read(settings, client, headers, may):
    settings.METRICS_ALLOW = [*settings.METRICS_ALLOW, "10.9.0.0/16"]
    request = RequestFactory().get("/metrics", headers=headers)
    request.META["REMOTE_ADDR"] = client
    assert may_read(request) is may
