"""Spans of a running site, as a collector receives them."""

import os
import socket
import subprocess
import sys
from queue import SimpleQueue

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.private_server import wait_for
from tests.running import ROOT, Site

pytestmark = pytest.mark.once

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ITEM = "/api/v1/items/country.DE"


class Spans(list[Span]):
    """All spans that have been received so far."""

    def __init__(self, bodies: SimpleQueue[bytes]) -> None:
        self.bodies = bodies

    def received(self) -> list[Span]:
        for _ in range(self.bodies.qsize()):
            request = ExportTraceServiceRequest.FromString(self.bodies.get())
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.extend(scope.spans)
        return self

    def has(self, name: str) -> bool:
        return any(span.name.startswith(name) for span in self.received())


def test_request_and_its_job_are_one_trace(
    tmp_path, postgres_own, redis_server, receiver
):
    spans = Spans(receiver.bodies)
    site, *_ = Site.on_postgres(
        postgres_own.url(), tmp_path / "site", REDIS_URL=redis_server.url(),
        LOG_FORMAT="json",
    )  # fmt: skip
    site.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{receiver.port}"
    try:
        site.start()
        answer = site.get(
            "/api/v1/heavy_computation?size=1000&token=secret-of-mine",
            traceparent=f"00-{TRACE}-{CLIENT}-01",
        )
        assert answer.status in (200, 202)
        wait_for(lambda: spans.has("job "))
        wait_for(lambda: spans.has("GET /api/v1/heavy"))
        site.get("/api/v1/items/?page_size=3", **{"X-Request-ID": "mine"})
    finally:
        site.stop()
    spans.received()
    ours = {s.span_id: s for s in spans if s.trace_id.hex() == TRACE}
    job = next(s for s in ours.values() if s.name.startswith("job "))
    way = [job]
    while way[-1].parent_span_id in ours:
        way.append(ours[way[-1].parent_span_id])
    assert way[-1].name == "GET /api/v1/heavy_computation"
    assert way[-1].parent_span_id.hex() == CLIENT
    assert len(way) == 3  # Django's is between them
    statements = [s for s in ours.values() if s.name == "INSERT"]
    assert statements
    assert all(s.parent_span_id in ours for s in statements)
    assert "secret-of-mine" not in str(spans)
    check_trace_without_parent(spans, site)


def check_trace_without_parent(spans: list[Span], site: Site) -> None:
    (root,) = [s for s in spans if s.name == "GET /api/v1/items"]
    assert not root.parent_span_id
    parts = [s for s in spans if s.trace_id == root.trace_id]
    assert "SELECT" in {span.name for span in parts}
    assert any(
        attribute.value.string_value == "redis"
        for span in parts
        for attribute in span.attributes
    )
    (line,) = [x for x in site.output().splitlines() if '"request_id":"mine"' in x]
    assert f'"trace_id":"{root.trace_id.hex()}"' in line
    # What belongs to no request and no job makes no trace.
    roots = {s.name for s in spans if not s.parent_span_id}
    assert not roots & {"SELECT", "INSERT", "UPDATE", "GET", "PING", "SUBSCRIBE"}


def test_collector_that_hangs_holds_up_no_request_and_no_exit(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        site = Site(tmp_path / "site", OTEL_EXPORTER_OTLP_ENDPOINT=url, READ_CACHE="0")
        site.start_web()
        try:
            for _ in range(50):
                assert site.get(ITEM).status == 200
        finally:
            site.stop()


def test_endpoint_without_the_extra_is_logged_and_the_site_starts(tmp_path):
    script = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None; "
        "import resilient_site.asgi"
    )
    env = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.count("pip install 'resilient-site[otel]'") == 1
