"""Spans by OpenTelemetry, sent by a thread; imported only where somebody takes them."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from resilient_site.edge.streaming import Message
from resilient_site.observability.request_id import current_trace_id
from resilient_site.observability.route_names import route_of
from resilient_site.observability.tracing import NOTHING, of_statement

PERIOD_MS = 1_000
# Of one try to send; what does not fit in the queue meanwhile is dropped.
TIMEOUT_S = 5.0
LAST_WORDS_S = 1.0


class Ids(IdGenerator):
    """A trace that begins here has the id that log and answer tell, too."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_span_id(self) -> int:
        return self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        told = current_trace_id()
        return int(told, 16) if told else self._random.generate_trace_id()


class Tracing:
    def __init__(self, role: str) -> None:
        os.environ.setdefault("OTEL_SERVICE_NAME", "resilient-site")
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(timeout=TIMEOUT_S), schedule_delay_millis=PERIOD_MS
        )
        provider = TracerProvider(
            resource=Resource.create({"process.role": role}),
            id_generator=Ids(),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("resilient_site")
        self._context = TraceContextTextMapPropagator()
        connection_created.connect(_wrap, dispatch_uid="spans")
        for connection in connections.all(initialized_only=True):
            _wrap(connection)

    def of_request(self, scope: Message, parent: str) -> AbstractContextManager[Any]:
        route = route_of(scope["path"])
        return self._begin(
            f"{scope['method']} {route}",
            SpanKind.SERVER,
            parent,
            {"http.request.method": scope["method"], "http.route": route},
        )

    def of_job(self, task: str, parent: str) -> AbstractContextManager[Any]:
        return self._begin(f"job {task}", SpanKind.CONSUMER, parent, {"job.task": task})

    @contextmanager
    def _begin(
        self, name: str, kind: SpanKind, parent: str | None, attributes: dict[str, str]
    ) -> Iterator[None]:
        """With a parent of "" it begins a trace, with None it is a part of one."""
        context = None
        if parent is not None:
            context = self._context.extract({"traceparent": parent}, Context())
        # What an exception says may be secret.
        with self._tracer.start_as_current_span(
            name,
            context,
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise

    def inside(
        self, name: str, attributes: dict[str, str]
    ) -> AbstractContextManager[Any]:
        if not trace.get_current_span().get_span_context().is_valid:
            return NOTHING
        kind = SpanKind.INTERNAL if name == "django" else SpanKind.CLIENT
        return self._begin(name, kind, None, attributes)

    def current(self) -> str:
        carrier: dict[str, str] = {}
        self._context.inject(carrier)
        return carrier.get("traceparent", "")

    def flush(self) -> None:
        """Send what is there, if that can be done soon."""
        thread = threading.Thread(target=self._processor.force_flush, daemon=True)
        thread.start()
        thread.join(LAST_WORDS_S)


def _wrap(connection: Any, **kwargs: object) -> None:
    if of_statement not in connection.execute_wrappers:
        connection.execute_wrappers.append(of_statement)
