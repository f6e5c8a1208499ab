"""Distributed tracing by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT is set.

It needs the extra `otel`; without the variable nothing of it is imported. A collector
that does not respond delays no request: spans that do not fit into the queue of a
thread are dropped, and so are those that are not sent a second after a process ends.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any

from django.conf import settings

logger = logging.getLogger(__name__)


@cache
def _otlp() -> ModuleType | None:
    if not settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        return None
    try:
        from resilient_site.observability import otlp
    except ImportError as error:
        logger.error(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but %s is not installed, so no traces "
            "are sent. The extra has it: pip install 'resilient-site[otel]'",
            error.name,
        )
        return None
    return otlp


def instrument() -> None:
    """Instrument Django, psycopg and redis, before a process loads middleware."""
    if otlp := _otlp():
        otlp.instrument()


def instrument_asgi(application: Any) -> Any:
    """Return the ASGI application with a span around each request."""
    return otlp.instrument_asgi(application) if (otlp := _otlp()) else application


def start(role: str) -> None:
    """Send spans of this process from now on. After a fork, not before it."""
    if otlp := _otlp():
        otlp.start(role)


def stop() -> None:
    if otlp := _otlp():
        otlp.stop()


def job_span(task: str, traceparent: str) -> AbstractContextManager[Any]:
    """Return the span of a job, which continues the trace of its request."""
    return otlp.job_span(task, traceparent) if (otlp := _otlp()) else nullcontext()


def current_traceparent() -> str:
    """Return the current span as a `traceparent` (W3C Trace Context), or ""."""
    return str(otlp.current_traceparent()) if (otlp := _otlp()) else ""
