"""Probes, status page and metrics: Django's views, run without Django's threads.

What fails: a database hangs, and every thread waits for it. The load balancer and the
operator still get an answer at once, from the last results of the health monitor. A
client with a session gets its own status page from Django, if that responds. Metrics
are rendered in a thread of their own, as the event loop would stand still meanwhile.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import cast

from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.csp import ContentSecurityPolicyMiddleware
from django.middleware.security import SecurityMiddleware

from resilient_site.edge.asgi_types import Headers, Send
from resilient_site.edge.cache.cached_response import headers_of, send_answer
from resilient_site.edge.request import SESSION_COOKIE, EdgeRequest
from resilient_site.errors import as_site_error
from resilient_site.health.views import live, public_status, ready
from resilient_site.observability.views import metrics

STATUS, METRICS = "/status", "/metrics"
VIEWS = {"/livez": live, "/readyz": ready, STATUS: public_status, METRICS: metrics}
PATHS = {f"{path}{slash}": path for path in VIEWS for slash in ("", "/")}

_metrics_thread = ThreadPoolExecutor(1, thread_name_prefix="metrics-page")


async def answer(request: EdgeRequest, send: Send, extra: Headers) -> bool:
    """Answer if this is a probe; return False if it is for Django."""
    path = PATHS.get(request.path)
    if path is None:
        return False
    if path == STATUS and SESSION_COOKIE in request.headers.get(b"cookie", b""):
        return False
    if path == METRICS:
        loop = asyncio.get_running_loop()
        response = await loop.run_in_executor(_metrics_thread, _respond, request)
    else:
        response = _respond(request)
    await _send(request, send, response, extra)
    return True


async def show_status(request: EdgeRequest, send: Send, extra: Headers) -> bool:
    """Show the public status page, if it is asked for."""
    if PATHS.get(request.path) != STATUS or not request.is_safe:
        return False
    await _send(request, send, _respond(request), extra)
    return True


def _respond(request: EdgeRequest) -> HttpResponse:
    query = request.query.decode("latin-1")
    asked = ASGIRequest({**request.scope, "query_string": query}, BytesIO())
    try:
        # Probes come by the address of the machine, which ALLOWED_HOSTS need not have.
        if PATHS[request.path] == STATUS:
            asked.get_host()
        return cast(HttpResponse, _chain(asked))
    except SuspiciousOperation as error:
        raise as_site_error(error) from error


def _view(request: HttpRequest) -> HttpResponse:
    return VIEWS[PATHS[request.path]](request)


# Of the middleware what needs neither a session nor a database.
_chain = SecurityMiddleware(
    ContentSecurityPolicyMiddleware(XFrameOptionsMiddleware(_view))
)


async def _send(
    request: EdgeRequest, send: Send, response: HttpResponse, extra: Headers
) -> None:
    body = response.content
    length = (b"content-length", b"%d" % len(body))
    headers = [*headers_of(response), length, *extra]
    await send_answer(request, send, response.status_code, headers, body)
