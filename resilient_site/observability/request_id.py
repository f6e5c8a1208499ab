"""The id of the request at hand: in answers, in the change log, in log lines.

With it goes the trace that it belongs to (W3C Trace Context): the one that the client
or the proxy says, or else one of our own.
"""

import random
import re
import uuid
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

HEADER = "X-Request-ID"
HEADER_BYTES = HEADER.lower().encode()
OURS = {HEADER_BYTES, b"traceparent"}

_current: ContextVar[str] = ContextVar("request_id", default="")
_trace: ContextVar[str] = ContextVar("trace_id", default="")
_user: ContextVar[str] = ContextVar("user_key", default="")
_parent = re.compile(
    rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
).fullmatch
_acceptable = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


def current_request_id() -> str:
    """Return the id of the request being answered, or "" outside of one."""
    return _current.get()


def current_trace_id() -> str:
    """Return the trace that the request belongs to, or "" outside of one."""
    return _trace.get()


def current_user_key() -> str:
    """Return the key of the user who met a fault of ours, or ""."""
    return _user.get()


def note_user(key: object) -> None:
    _user.set(str(key))


def begin_exchange(scope: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Give an ASGI request its id and trace; return the headers that tell the client.

    What comes behind reads them from the request's headers, as from a proxy.
    """
    headers = dict(scope["headers"])
    parent = _traceparent(headers.get(b"traceparent", b""))
    trace_id, rest = parent or _new_trace()
    request_id = _offered(headers) or trace_id
    _current.set(request_id)
    _trace.set(trace_id)
    told = [(HEADER_BYTES, request_id.encode())]
    scope["headers"] = [
        *((n, v) for n, v in scope["headers"] if n not in OURS),
        *told,
        (b"traceparent", b"00-%b-%b" % (trace_id.encode(), rest)),
    ]
    return told


def choose_id(offered: bytes, traceparent: bytes) -> bytes:
    """Return the id of a request that goes no further."""
    if offered and _acceptable(offered.decode("latin-1")):
        return offered
    if traceparent and (parent := _traceparent(traceparent)):
        return parent[0].encode()
    return b"%032x" % random.getrandbits(128)  # noqa: S311 - no secret


def _offered(headers: Mapping[bytes, bytes]) -> str:
    offered = headers.get(HEADER_BYTES, b"").decode("latin-1")
    return offered if _acceptable(offered) else ""


def _new_trace() -> tuple[str, bytes]:
    # Not secret. A system call for randomness would release the GIL: the event loop
    # then waits for it while other threads are busy.
    made = f"{random.getrandbits(8 * (16 + 8)):048x}"  # noqa: S311
    return made[:32], f"{made[32:]}-01".encode()


def _traceparent(header: bytes) -> tuple[str, bytes] | None:
    """Return the trace id, and the rest; None if the header is not valid."""
    found = _parent(header)
    if found is None or header.startswith(b"ff") or b"0" * 32 in found[1]:
        return None
    if found[2] == b"0" * 16:
        return None
    return found[1].decode(), b"%b-%b" % (found[2], found[3])


def begin_request(offered: str | None) -> str:
    """Take over the id that the client or proxy offered, or make a new one."""
    request_id = offered if offered and _acceptable(offered) else uuid.uuid4().hex
    _current.set(request_id)
    return request_id
