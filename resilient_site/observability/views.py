"""The metrics endpoint: the page of all processes, for the clients that may read it."""

from ipaddress import ip_address, ip_network

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse

from resilient_site.edge.policy import UNLIMITED, policy
from resilient_site.errors import NotFound
from resilient_site.observability.metrics import CONTENT_TYPE, render

# Requests through a proxy that FORWARDED_ALLOW_IPS does not name have its address.
FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP")


@policy(read_rate=UNLIMITED)
@login_not_required
def metrics(request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD") or not may_read(request):
        raise NotFound
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(render(), content_type=CONTENT_TYPE, headers=headers)


def may_read(request: HttpRequest) -> bool:
    """Return whether METRICS_ALLOW names the address of the client."""
    try:
        address = ip_address(request.META.get("REMOTE_ADDR") or "")
    except ValueError:
        return False
    if address.is_loopback and any(name in request.headers for name in FORWARDED):
        return False
    return any(address in ip_network(allowed) for allowed in settings.METRICS_ALLOW)
