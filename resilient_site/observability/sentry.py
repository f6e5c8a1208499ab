"""Faults of ours to Sentry; imported only where a DSN is set.

What is expected (the database or Redis away, a rush) is told once for each change of
state, which is a line in the log, and not once a request. What is told says nothing of
a request but its method and address, and holds no secrets. All is sent by a thread
from a short queue: a Sentry that does not answer holds up nobody.
"""

import logging
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.integrations.logging import LoggingIntegration

from resilient_site.observability.redaction import redact
from resilient_site.observability.request_id import (
    current_request_id,
    current_trace_id,
    current_user_key,
)

# A process that ends waits so long for what is still to be sent.
LAST_WORDS_S = 1
# Whose warnings are changes of state.
TRANSITIONS = {
    "resilient_site.health.monitor",
    "resilient_site.resilience.breakers",
    "resilient_site.edge.cache.invalidation_pubsub",
}
MAY_HOLD_SECRETS = ("message", "logentry", "exception", "breadcrumbs", "extra")


def begin(dsn: str, release: str) -> None:
    sentry_sdk.init(
        dsn,
        release=release or None,
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        auto_session_tracking=False,
        send_client_reports=False,
        shutdown_timeout=LAST_WORDS_S,
        # What it finds installed it would load, Celery into the web process too.
        auto_enabling_integrations=False,
        integrations=[
            DjangoIntegration(),
            LoggingIntegration(event_level=logging.WARNING),
            AtexitIntegration(callback=lambda pending, timeout: None),
        ],
        before_send=tidied,
    )


def tidied(event: Any, hint: dict[str, Any]) -> Any:
    """Return what is to be sent of it; None if it is not to be."""
    if not is_wanted(hint):
        return None
    request = event.pop("request", {})
    event["request"] = {
        "method": request.get("method"),
        "url": str(request.get("url", "")).partition("?")[0],
    }
    for name in MAY_HOLD_SECRETS:
        if name in event:
            event[name] = redact(event[name])
    if user := current_user_key():
        event["user"] = {"id": user}
    tags = {
        "request_id": current_request_id(),
        "trace_id": current_trace_id(),
        "degraded": ",".join(_degraded()),
    }
    event["tags"] = event.get("tags") or {}
    event["tags"] |= {name: value for name, value in tags.items() if value}
    return event


def is_wanted(hint: dict[str, Any]) -> bool:
    error = (hint.get("exc_info") or (None, None))[1]
    if error is not None:
        from resilient_site.errors import as_site_error, is_unexpected

        return not is_expected(error) and is_unexpected(as_site_error(error))
    record = hint.get("log_record")
    return record is None or record.name in TRANSITIONS


def is_expected(error: BaseException) -> bool:
    from redis import RedisError

    from resilient_site.resilience.breakers import BreakerOpen

    return isinstance(error, RedisError | BreakerOpen)


def _degraded() -> list[str]:
    from resilient_site.health.monitor import health_monitor

    # Where nothing watches, a look would ask the parts themselves.
    not_passing = (
        health_monitor.report().not_passing if health_monitor.is_running else ()
    )
    return [component.name for component in not_passing]
