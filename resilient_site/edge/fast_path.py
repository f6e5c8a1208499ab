"""Answers on the shortest way: from the protocol, without a task of their own.

What is fresh in memory is found without waiting for anything, and so is that there is
too much to do. To make a task for it, and to pass its parts through ASGI, would cost
more than to find it.
"""

from functools import lru_cache
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from resilient_site.edge import load_shedding
from resilient_site.edge.access_log import HIT, REFUSED, tell_at_once
from resilient_site.edge.admission import refusal
from resilient_site.edge.cache import coalescing
from resilient_site.edge.cache.cached_response import Headers, lines_of
from resilient_site.edge.error_responses import as_lines
from resilient_site.edge.request import Incoming
from resilient_site.observability.request_id import name_exchange

METHODS = {b"GET": "GET", b"HEAD": "HEAD"}
SCHEMES = ("http", "https")
# Longer ones are not asked for often.
TARGET_MAX = 512


def answer(
    method: bytes,
    target: bytes,
    scheme: str,
    fields: dict[bytes, bytes],
    defaults: Headers,
) -> bytes | None:
    """Return the whole answer if it can be told at once; None if ASGI is to be asked.

    `fields` has the names in lower case, none of them twice or with `_`.
    """
    if method not in METHODS or scheme not in SCHEMES or len(target) > TARGET_MAX:
        return None
    raw_path, _, query = target.partition(b"?")
    path = _path(raw_path)
    # What is not plain is for Uvicorn to read.
    if path is None or b"#" in query or not query.isascii():
        return None
    request = Incoming(
        {
            "type": "http",
            "method": METHODS[method],
            "scheme": scheme,
            "path": path,
            "query_string": query,
            "headers": fields.items(),
        }
    )
    key = coalescing.key_of_shared(request)
    if key is None:
        return None
    if copy := coalescing.find_fresh(request, key):
        how, status, body = HIT, 200, copy.body
        named = name_exchange(fields)
        if request.is_conditional:
            told = [*copy.status(b"hit"), *named]
            status, headers, body = copy.answer(request, told)
            lines = lines_of(headers)
        else:
            lines = copy.lines + lines_of([*copy.status(b"hit"), *named])
    elif load_shedding.is_refused(request, key):
        how, status = REFUSED, 503
        lines, body = as_lines(request, refusal(), name_exchange(fields))
    else:
        return None
    tell_at_once(request.scope, status, how, len(body))
    content = b"" if request.method == "HEAD" else body
    return b"".join((STATUS_LINE[status], lines_of(defaults), lines, b"\r\n", content))


@lru_cache(maxsize=4096)
def _path(raw: bytes) -> str | None:
    """Return the path as Uvicorn has it; None for what is to be looked at."""
    if not raw.startswith(b"/") or raw.startswith(b"//"):
        return None
    if b"#" in raw or not raw.isascii():
        return None
    return unquote(raw.decode())
