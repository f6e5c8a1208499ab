"""What the edge answers by itself: no thread is needed, and no template rendered."""

from contextvars import copy_context
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, HttpResponse

from resilient_site.edge.copies import Headers, headers_of, send_answer
from resilient_site.edge.incoming import Incoming
from resilient_site.errors import SiteError, respond
from resilient_site.later import Send
from resilient_site.requestid import HEADER_BYTES, begin_request

# Stand in the rendered answer for what differs by request.
_PATH = "/1f0c9d0e-the-path"
_ID = "1f0c9d0e-the-request-id"
_SAFE_IN_HTML_AND_JSON = set(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._~-"
)


async def send_error(
    request: Incoming, send: Send, error: SiteError, extra: Headers
) -> None:
    headers, body = render(request, error, extra)
    await send_answer(request, send, error.status, headers, body)


def render(
    request: Incoming, error: SiteError, extra: Headers
) -> tuple[Headers, bytes]:
    """Return the answer; `extra` are its own headers, with the request's id."""
    is_rest = request.path.startswith("/api/")
    kind: Any = type(error)
    headers, body = _rendered(is_rest, kind, error.detail, error.retry_after_s)
    path = request.path if _SAFE_IN_HTML_AND_JSON.issuperset(request.path) else "/"
    body = body.replace(_PATH.encode(), path.encode())
    body = body.replace(_ID.encode(), dict(extra)[HEADER_BYTES])
    length = (b"content-length", b"%d" % len(body))
    return [*headers, *extra, length], body


@lru_cache(maxsize=256)
def _rendered(
    is_rest: bool,
    kind: Any,
    detail: str,
    retry_after_s: int | None,
) -> tuple[Headers, bytes]:
    request = HttpRequest()
    request.path = request.path_info = f"/api{_PATH}" if is_rest else _PATH

    def answer() -> HttpResponse:
        begin_request(_ID)
        return respond(request, kind(detail, retry_after_s=retry_after_s))

    response = copy_context().run(answer)  # whose id stays there
    body = response.content.replace(f"/api{_PATH}".encode(), _PATH.encode())
    return headers_of(response), body
