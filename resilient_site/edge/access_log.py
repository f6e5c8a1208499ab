"""Access log and metrics of requests: each is counted, and most have a log line.

Cache hits are only counted, unless ACCESS_LOG=all: a line costs more than the response.
Probes have no line, and rejections for overload none either.
"""

import logging
import time
from typing import Any

from django.conf import settings

from resilient_site.edge.asgi_types import Message, Send
from resilient_site.edge.cache.cached_response import EDGE_ACTION, HIT, STALE
from resilient_site.edge.policy import PROBE, policy_at
from resilient_site.edge.request import SCOPE_KEY, RequestContext
from resilient_site.health.monitor import health_monitor
from resilient_site.observability.metrics import REQUEST_DURATION, requests

logger = logging.getLogger("resilient_site.requests")

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
NO, MOST, ALL = "0", "1", "all"
# The client left before there was a response; nginx uses it, too.
CLIENT_GONE = 499
REJECTED, NONE = "rejected", "none"


def record_hit(scope: Message, route: str, size: int) -> None:
    requests[route, scope["method"], 200, HIT] += 1
    if settings.ACCESS_LOG == ALL:
        log(scope, route, 200, 0.0, size, HIT)


class RequestRecorder:
    """Records one request on its way through the edge, and its response."""

    def __init__(self, scope: Message, send: Send) -> None:
        self._scope, self._send = scope, send
        self._began = time.perf_counter()
        self._status = self._size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        else:
            self._size += len(message.get("body", b""))
        await self._send(message)

    def end(self) -> None:
        seconds = time.perf_counter() - self._began
        scope = self._scope
        status = self._status or CLIENT_GONE
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = policy_at(scope["path"], method).route
        edge = scope.get(EDGE_ACTION) or (REJECTED if self._is_rejected() else NONE)
        requests[route, method, status, edge] += 1
        wanted = settings.ACCESS_LOG
        # A rejection must cost as little as possible: it is counted.
        if route == PROBE or (edge == REJECTED and wanted != ALL):
            return
        REQUEST_DURATION.labels(route, method, f"{status // 100}xx").observe(seconds)
        if wanted == ALL or (wanted == MOST and edge != HIT):
            log(scope, route, status, seconds, self._size, edge)

    def _is_rejected(self) -> bool:
        context: RequestContext | None = self._scope.get(SCOPE_KEY)
        return self._status in (429, 503) and not (context and context.was_admitted)


def log(
    scope: Message, route: str, status: int, seconds: float, size: int, edge: str
) -> None:
    context: RequestContext | None = scope.get(SCOPE_KEY)
    identity = context.identity if context else None
    fields: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["path"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "bytes": size,
        "user": str(identity.user_id) if identity else None,
    }
    if edge != NONE:
        fields["cache"] = edge
    if status >= 500 or edge in (STALE, REJECTED):
        fields["degraded"] = health_monitor.degraded()
    logger.info("%s %s %d", scope["method"], scope["path"], status, extra=fields)
