"""Error responses of the edge: rendered once, sent without a thread."""

from contextvars import copy_context
from functools import lru_cache
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse

from resilient_site.edge.asgi_types import Headers, Send
from resilient_site.edge.cache.cached_response import headers_of, send_answer
from resilient_site.edge.cors import VARY, adds_cors_headers
from resilient_site.edge.request import EdgeRequest
from resilient_site.errors import REST_PATH, SiteError, respond
from resilient_site.observability.request_id import HEADER_BYTES, set_request_id

# Stand in the rendered answer for what differs by request.
_PATH = "/1f0c9d0e-the-path"
_ID = "1f0c9d0e-the-request-id"
_SAFE_IN_HTML_AND_JSON = set(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._~-"
)


async def send_error(
    request: EdgeRequest, send: Send, error: SiteError, extra: Headers
) -> None:
    """Send the error; `extra` are its own headers, with the request id."""
    is_rest = request.path.startswith(REST_PATH)
    kind: Any = type(error)
    members = orjson.dumps(error.members)
    headers, body = _rendered(is_rest, kind, error.detail, error.retry_after_s, members)
    path = request.path if _SAFE_IN_HTML_AND_JSON.issuperset(request.path) else "/"
    body = body.replace(_PATH.encode(), path.encode())
    body = body.replace(_ID.encode(), dict(extra)[HEADER_BYTES])
    own = [(n.lower().encode(), v.encode()) for n, v in error.headers.items()]
    own.append((b"content-length", b"%d" % len(body)))
    if adds_cors_headers(request.path):
        own.append(VARY)
    await send_answer(request, send, error.status, [*headers, *extra, *own], body)


@lru_cache(maxsize=256)
def _rendered(
    is_rest: bool, kind: Any, detail: str, retry_after_s: int | None, members: bytes
) -> tuple[Headers, bytes]:
    request = HttpRequest()
    request.path = request.path_info = f"/api{_PATH}" if is_rest else _PATH

    def answer() -> HttpResponse:
        set_request_id(_ID)
        error = kind(detail, retry_after_s=retry_after_s, members=orjson.loads(members))
        return respond(request, error)

    response = copy_context().run(answer)  # whose id stays there
    body = response.content.replace(f"/api{_PATH}".encode(), _PATH.encode())
    return headers_of(response), body
