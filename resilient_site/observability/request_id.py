"""The ids of the current request: in its response, the change log and log lines.

The client or a proxy may offer one (`X-Request-ID`). Else it is the id of the trace
(W3C Trace Context): that of `traceparent` if it is valid, or a new one.

A client can offer the id of another's request. So each request has an id of the site's
own as well, which is the same where none is offered.
"""

import random
import re
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, NamedTuple

HEADER = "X-Request-ID"
HEADER_BYTES = HEADER.lower().encode()
HEADERS = {HEADER_BYTES, b"traceparent"}


class RequestIds(NamedTuple):
    request_id: str = ""
    trace_id: str = ""
    own_id: str = ""


NO_IDS = RequestIds()
request_ids: ContextVar[RequestIds] = ContextVar("request_ids", default=NO_IDS)
_is_valid_id = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch
_is_valid_traceparent = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch


def current_request_id() -> str:
    """Return the id of the current request, or "" outside of one."""
    return request_ids.get().request_id


def current_own_id() -> str:
    """Return the id that the site has made, or "" outside of a request."""
    return request_ids.get().own_id


def offered_id() -> str:
    """Return the id of the current request that its client has chosen, or ""."""
    request_id, _, own_id = request_ids.get()
    return request_id if request_id != own_id else ""


def current_trace_id() -> str:
    """Return the trace that the request belongs to, or "" outside of one."""
    return request_ids.get().trace_id


def start_request(scope: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Set the id and trace of an ASGI request; return the headers of its response."""
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    traceparent = headers.get(b"traceparent", b"")
    own_id = new_id()
    if not _is_valid_traceparent(traceparent):
        traceparent = b"00-%b-%016x-01" % (own_id, random.getrandbits(64) or 1)  # noqa: S311 - no secret
    request_id = choose_id(headers.get(HEADER_BYTES, b""), traceparent)
    trace_id = traceparent[3:35].decode()
    request_ids.set(RequestIds(request_id.decode(), trace_id, own_id.decode()))
    scope["headers"] = [
        *((n, v) for n, v in scope["headers"] if n not in HEADERS),
        (HEADER_BYTES, request_id),
        (b"traceparent", traceparent),
    ]
    return [(HEADER_BYTES, request_id)]


def choose_id(offered: bytes, traceparent: bytes = b"") -> bytes:
    """Return the id that was offered, that of the trace, or a new one."""
    if offered and _is_valid_id(offered):
        return offered
    found = _is_valid_traceparent(traceparent) if traceparent else None
    return found[1] if found else new_id()


def new_id() -> bytes:
    return b"%032x" % (random.getrandbits(128) or 1)  # noqa: S311 - no secret


def set_request_id(request_id: str) -> str:
    """Take over an id that the site has made, such as that of a job, if it is valid."""
    request_id = choose_id(request_id.encode(errors="replace")).decode()
    request_ids.set(RequestIds(request_id, own_id=request_id))
    return request_id


def set_offered_id(offered: str) -> str:
    """Take over the id that a client offers, if it is valid, beside one of our own."""
    own_id = new_id().decode()
    is_valid = _is_valid_id(offered.encode(errors="replace"))
    request_id = offered if is_valid else own_id
    request_ids.set(RequestIds(request_id, own_id=own_id))
    return request_id
