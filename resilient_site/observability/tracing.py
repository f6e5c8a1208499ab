"""The parts of a request's way as spans of one trace, if somebody collects them.

Without OTEL_EXPORTER_OTLP_ENDPOINT this does nothing, and what makes and sends spans is
not even imported. What happens outside of a request or a job makes none.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from django.conf import settings

from resilient_site.edge.streaming import Message

if TYPE_CHECKING:
    from resilient_site.observability.otlp import Tracing

NOTHING: AbstractContextManager[Any] = nullcontext()
PARENT = b"traceparent"

_tracing: "Tracing | None" = None


def begin(role: str) -> None:
    """Collect spans in this process from here on. After a fork, not before it."""
    global _tracing
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT and _tracing is None:
        from resilient_site.observability.otlp import Tracing

        _tracing = Tracing(role)


def end() -> None:
    """Send what is there, if that can be done soon."""
    if _tracing is not None:
        _tracing.flush()


def parent_of(scope: Message) -> bytes:
    """Return what the client says that its request is a part of."""
    return b"" if _tracing is None else dict(scope["headers"]).get(PARENT, b"")


def of_request(scope: Message, said: bytes) -> AbstractContextManager[Any]:
    """`said` is what the client said; in the scope is what was made of it."""
    if _tracing is None:
        return NOTHING
    taken = dict(scope["headers"])[PARENT]
    return _tracing.of_request(scope, taken.decode() if taken == said else "")


def of_job(task: str, parent: str) -> AbstractContextManager[Any]:
    return NOTHING if _tracing is None else _tracing.of_job(task, parent)


def inside(name: str, **attributes: str) -> AbstractContextManager[Any]:
    """A part of whatever is under way here."""
    return NOTHING if _tracing is None else _tracing.inside(name, attributes)


def current() -> str:
    """Return what is under way as a `traceparent`, for who goes on with it."""
    return "" if _tracing is None else _tracing.current()


def of_statement(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
) -> Any:
    """Django's way to wrap a query. Its parameters are told to nobody."""
    text = str(sql)
    name = text.split(maxsplit=1)[0].upper() if text.strip() else "SQL"
    vendor = context["connection"].vendor
    with inside(name, **{"db.system.name": vendor, "db.query.text": text[:1000]}):
        return execute(sql, params, many, context)
