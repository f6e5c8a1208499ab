"""Error reports to Sentry; imported only where SENTRY_DSN is set.

An outage is one report for each change of state, not one for each request. Reports hold
no secrets, and of a request only its method and URL without the query. A thread sends
them: a Sentry that does not respond delays no request.
"""

import logging
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.integrations.logging import LoggingIntegration

from resilient_site.observability.redaction import redact
from resilient_site.observability.request_id import current_request_id, current_trace_id

# How long a process that ends waits for reports on their way.
SHUTDOWN_TIMEOUT_S = 1
# Loggers whose warnings are changes of state.
STATE_LOGGERS = {
    "resilient_site.health.monitor",
    "resilient_site.resilience.breakers",
    "resilient_site.edge.cache.invalidation",
}
REDACTED = ("message", "logentry", "exception", "breadcrumbs", "extra")


def start(dsn: str, release: str) -> None:
    sentry_sdk.init(
        dsn,
        release=release or None,
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        auto_session_tracking=False,
        send_client_reports=False,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        # It would import each library that it finds, Celery into web processes too.
        auto_enabling_integrations=False,
        integrations=[
            DjangoIntegration(),
            LoggingIntegration(event_level=logging.WARNING),
            AtexitIntegration(callback=lambda pending, timeout: None),
        ],
        before_send=prepare_event,
    )


def prepare_event(event: Any, hint: dict[str, Any]) -> Any:
    """Return the event redacted and tagged; None if it is not to be sent."""
    from resilient_site.health.monitor import health_monitor  # needs the settings

    if not is_wanted(hint):
        return None
    request = event.pop("request", {})
    event["request"] = {
        "method": request.get("method"),
        "url": str(request.get("url", "")).partition("?")[0],
    }
    for name in REDACTED:
        if name in event:
            event[name] = redact(event[name])
    tags = {
        "request_id": current_request_id(),
        "trace_id": current_trace_id(),
        "degraded": ",".join(health_monitor.degraded()),
    }
    known = {name: value for name, value in tags.items() if value}
    event["tags"] = (event.get("tags") or {}) | known
    return event


def is_wanted(hint: dict[str, Any]) -> bool:
    """Return whether it is an unexpected error or a change of state."""
    error = (hint.get("exc_info") or (None, None))[1]
    if error is not None:
        from redis import RedisError

        from resilient_site.errors import as_site_error, is_unexpected
        from resilient_site.resilience.breakers import BreakerOpen

        is_expected = isinstance(error, RedisError | BreakerOpen)
        return not is_expected and is_unexpected(as_site_error(error))
    record = hint.get("log_record")
    return record is None or record.name in STATE_LOGGERS
