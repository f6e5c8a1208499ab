"""What is seen of the health of this process from outside: for machines and for people.

Answered without Django's threads, from what `health.watching` found last, whoever is
away or hangs. Who is signed in gets his own status page from Django, if that can be.
"""

from io import BytesIO
from typing import cast
from urllib.parse import parse_qs

import orjson
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.csp import ContentSecurityPolicyMiddleware
from django.middleware.security import SecurityMiddleware

from resilient_site.edge.asgi_types import Send
from resilient_site.edge.cache.cached_response import Headers, headers_of, send_answer
from resilient_site.edge.health_check import edge
from resilient_site.edge.request import SESSION_COOKIE, Incoming
from resilient_site.edge.streaming import in_flight_responses
from resilient_site.errors import as_site_error
from resilient_site.health import health_json, page
from resilient_site.health.checks import DATABASE
from resilient_site.health.components import Status
from resilient_site.health.monitor import Report, health_monitor

LIVE, READY, STATUS = "/livez", "/readyz", "/status"
PATHS = {
    f"{path}{slash}": path for path in (LIVE, READY, STATUS) for slash in ("", "/")
}
TEXT = b"text/plain; charset=utf-8"
ALLOW: Headers = [(b"allow", b"GET, HEAD")]


async def answer(request: Incoming, send: Send, extra: Headers) -> bool:
    """Answer a probe, or whoever only wants to see how the site is."""
    path = PATHS.get(request.path)
    if path is None:
        return False
    if path == STATUS:
        if SESSION_COOKIE in request.headers.get(b"cookie", b""):
            return False
        return await show_status(request, send, extra)
    if not request.is_safe:
        await _send(request, send, 405, TEXT, b"GET or HEAD\n", extra, ALLOW)
    elif path == LIVE:
        await _send(request, send, 200, TEXT, b"ok\n", extra)
    else:
        await _answer_ready(request, send, extra)
    return True


async def show_status(request: Incoming, send: Send, extra: Headers) -> bool:
    """Show the status page that everybody may see, if it is asked for."""
    if PATHS.get(request.path) != STATUS or not request.is_safe:
        return False
    response = _public_page(request)
    status, body = response.status_code, response.content
    length = (b"content-length", b"%d" % len(body))
    headers = [*headers_of(response), length, *extra]
    await send_answer(request, send, status, headers, body)
    return True


def why_not_ready(report: Report) -> str:
    """Return why this process cannot answer requests; "" if it can."""
    if in_flight_responses.is_ending:
        return "The process is stopping."
    if report.status_of(DATABASE) is Status.FAIL and not edge.has_answers:
        return "The database does not answer, and no responses are cached."
    return ""


async def _answer_ready(request: Incoming, send: Send, extra: Headers) -> None:
    report = health_monitor.report()
    why = why_not_ready(report)
    status = 503 if why else 200
    query = parse_qs(request.query.decode("latin-1"), keep_blank_values=True)
    if "verbose" in query:
        body = orjson.dumps(health_json.health(report, why))
        await _send(request, send, status, health_json.TYPE, body, extra)
        return
    not_passing = ", ".join(component.name for component in report.not_passing)
    words = why or (f"ok, but degraded: {not_passing}" if not_passing else "ok")
    await _send(request, send, status, TEXT, f"{words}\n".encode(), extra)


def _public_page(request: Incoming) -> HttpResponse:
    query = request.query.decode("latin-1")
    asked = ASGIRequest({**request.scope, "query_string": query}, BytesIO())
    try:
        asked.get_host()
        return cast(HttpResponse, _chain(asked))
    except SuspiciousOperation as error:
        raise as_site_error(error) from error


def _respond(request: HttpRequest) -> HttpResponse:
    report = health_monitor.report()
    return page.public(request, report, why_not_ready(report))


# Of the middleware what needs neither a session nor a database.
_chain = SecurityMiddleware(
    ContentSecurityPolicyMiddleware(XFrameOptionsMiddleware(_respond))
)


async def _send(
    request: Incoming,
    send: Send,
    status: int,
    content_type: bytes,
    body: bytes,
    extra: Headers,
    more: Headers | None = None,
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
        *(more or []),
        *extra,
    ]
    await send_answer(request, send, status, headers, body)
