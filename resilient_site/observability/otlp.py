"""OpenTelemetry's SDK and instrumentations, set up for this site; see tracing.py."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from django.conf import settings
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, Status
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from resilient_site.edge.policy import policy_at
from resilient_site.observability.redaction import redact

STOP_TIMEOUT_S = 1.0
PROBES = r"://[^/]+/(livez|readyz|metrics)/?$"
_propagator = TraceContextTextMapPropagator()


def instrument() -> None:
    DjangoInstrumentor().instrument()
    RedisInstrumentor().instrument()
    # It is installed as psycopg[binary], which the check does not know.
    PsycopgInstrumentor().instrument(skip_dep_check=True)


def instrument_asgi(application: Any) -> Any:
    return OpenTelemetryMiddleware(
        application,
        excluded_urls=PROBES,
        default_span_details=_name_request,
        server_request_hook=_pass_on,
        exclude_spans=["receive", "send"],
    )


def _name_request(scope: Any) -> tuple[str, dict[str, str]]:
    route = policy_at(scope["path"], scope["method"]).route
    return f"{scope['method']} {route}", {"http.route": route}


def _pass_on(span: Any, scope: Any) -> None:
    """Have request id, log lines and Django continue the trace of the span."""
    others = [pair for pair in scope["headers"] if pair[0] != b"traceparent"]
    scope["headers"] = [*others, (b"traceparent", current_traceparent().encode())]


def start(role: str) -> None:
    resource = Resource.create({SERVICE_NAME: "resilient-site", "process.role": role})
    provider = TracerProvider(
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES precede the defaults.
        resource=resource.merge(OTELResourceDetector().detect()),
        # What an exception says may be secret, and events hold nothing else.
        span_limits=SpanLimits(max_events=0),
        shutdown_on_exit=False,
    )
    provider.sampler = WithinRequests(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(RedactingExporter()))
    trace.set_tracer_provider(provider)
    if role == "compute" and settings.COMPUTE_BACKEND == "celery":
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]


def stop() -> None:
    provider: Any = trace.get_tracer_provider()
    thread = threading.Thread(target=provider.shutdown, daemon=True)
    thread.start()
    thread.join(STOP_TIMEOUT_S)


def job_span(task: str, traceparent: str) -> AbstractContextManager[Any]:
    return trace.get_tracer(__name__).start_as_current_span(
        f"job {task}",
        _propagator.extract({"traceparent": traceparent}),
        SpanKind.CONSUMER,
        {"job.task": task},
    )


def current_traceparent() -> str:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


class WithinRequests(Sampler):
    """Drops calls of the database and Redis that belong to no request and no job."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        *rest: Any,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if kind is SpanKind.CLIENT and not parent.is_valid:
            return SamplingResult(Decision.DROP)
        return self.sampler.should_sample(parent_context, trace_id, name, kind, *rest)

    def get_description(self) -> str:
        return f"WithinRequests({self.sampler.get_description()})"


class RedactingExporter(OTLPSpanExporter):
    """Sends no secrets, and no query of a URL."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            kept = {
                name: value.partition("?")[0]
                if name.startswith(("http.", "url.")) and isinstance(value, str)
                else value
                for name, value in (span.attributes or {}).items()
                if name != "url.query"
            }
            span._attributes = redact(kept)
            if span.status.description:
                text = redact(span.status.description)
                span._status = Status(span.status.status_code, text)
        return super().export(spans)
