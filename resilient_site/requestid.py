"""The id of the request at hand: in answers, in the change log, in log lines."""

import re
import uuid
from contextvars import ContextVar

HEADER = "X-Request-ID"

_current: ContextVar[str] = ContextVar("request_id", default="")
_acceptable = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


def current_request_id() -> str:
    """Return the id of the request being answered, or "" outside of one."""
    return _current.get()


def begin_request(offered: str | None) -> str:
    """Take over the id that the client or proxy offered, or make a new one."""
    request_id = offered if offered and _acceptable(offered) else uuid.uuid4().hex
    _current.set(request_id)
    return request_id
