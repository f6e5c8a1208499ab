"""Access log: every request is counted, and most have a line.

Cache hits have none unless ACCESS_LOG=all, as a line costs more than a hit; probes have
none at all.
"""

import logging
import re
import time
from typing import Any

from django.conf import settings

from resilient_site.edge.asgi_types import Message, Send
from resilient_site.edge.policy import policy_at
from resilient_site.edge.request_context import SCOPE_KEY, RequestContext
from resilient_site.health.monitor import health_monitor
from resilient_site.observability.metrics import REQUEST_DURATION, requests
from resilient_site.observability.route_names import PROBE

logger = logging.getLogger("resilient_site.requests")

CACHE_STATUS = b"cache-status"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
NO, MOST, ALL = "0", "1", "all"
# The client had gone before there was an answer (nginx has it, too).
GONE = 499
HIT, STALE, STORED, COLLAPSED, REJECTED = (
    "hit",
    "stale",
    "stored",
    "collapsed",
    "rejected",
)
NONE = "none"
_is_old = re.compile(rb"ttl=-").search


def method_of(method: str) -> str:
    return method if method in METHODS else "other"


def record_hit(scope: Message, size: int) -> None:
    route = policy_at(scope["path"], "GET").route
    requests[route, scope["method"], 200, HIT] += 1
    if settings.ACCESS_LOG == ALL:
        log(scope, 200, 0.0, size, HIT)


class Observed:
    """One request on its way through the edge, and what its answer is."""

    def __init__(self, scope: Message, send: Send) -> None:
        self._scope, self._send = scope, send
        self._began = time.perf_counter()
        self._status = self._size = 0
        self._cache = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message["headers"]:
                if name == CACHE_STATUS:
                    self._cache = value
        else:
            self._size += len(message.get("body", b""))
        await self._send(message)

    def end(self) -> None:
        seconds = time.perf_counter() - self._began
        scope = self._scope
        status = self._status or GONE
        method = method_of(scope["method"])
        route = policy_at(scope["path"], method).route
        how = self.how()
        requests[route, method, status, how] += 1
        if route == PROBE:
            return
        REQUEST_DURATION.labels(route, method, f"{status // 100}xx").observe(seconds)
        wanted = settings.ACCESS_LOG
        if wanted == ALL or (wanted == MOST and how not in (HIT, REJECTED)):
            log(scope, status, seconds, self._size, how)

    def how(self) -> str:
        """Return what the edge did for it, from what it says itself (RFC 9211)."""
        said = self._cache
        if not said:
            return REJECTED if self._status == 503 and not self._was_asked() else NONE
        if b"; hit" in said:
            return STALE if b"detail=" in said or _is_old(said) else HIT
        return COLLAPSED if b"collapsed" in said else STORED

    def _was_asked(self) -> bool:
        context = self._scope.get(SCOPE_KEY)
        return context is not None and context.was_admitted


def log(scope: Message, status: int, seconds: float, size: int, how: str) -> None:
    fields: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["path"],
        "route": policy_at(scope["path"], method_of(scope["method"])).route,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "bytes": size,
        "user": _user(scope),
    }
    if how != NONE:
        fields["cache"] = how
    if status >= 500 or how in (STALE, REJECTED):
        fields["degraded"] = [component.name for component in not_passing()]
    logger.info("%s %s %d", scope["method"], scope["path"], status, extra=fields)


def not_passing() -> tuple[Any, ...]:
    # Where nothing watches, a look would ask the parts themselves.
    return health_monitor.report().not_passing if health_monitor.is_running else ()


def _user(scope: Message) -> str | None:
    context: RequestContext | None = scope.get(SCOPE_KEY)
    identity = context.identity if context else None
    return identity.tag.removeprefix("user:") if identity else None
