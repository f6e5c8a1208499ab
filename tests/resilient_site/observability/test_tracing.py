"""One trace of a request and of the job it asked for, at a collector of our own."""

import gzip
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

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


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            told = ExportTraceServiceRequest.FromString(body)
            for resource in told.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_request_and_its_job_are_one_trace(tmp_path, redis_server):
    with collector() as (url, spans):
        site = Site(
            tmp_path / "site", OTEL_EXPORTER_OTLP_ENDPOINT=url,
            REDIS_URL=redis_server.url(),
        )  # fmt: skip
        try:
            site.start()
            answer = site.get(
                "/api/v1/heavy_computation", traceparent=f"00-{TRACE}-{CLIENT}-01"
            )
            assert answer.status in (200, 202)
            wait_for(lambda: any(s.name.startswith("job ") for s in spans), 20)
            wait_for(lambda: any(s.name.startswith("GET /api/v1/heavy") for s in spans))
            unknown = site.get("/api/v1/items/country.FR", **{"X-Request-ID": "mine"})
            assert unknown.status == 200
        finally:
            site.stop()
    ours = {s.span_id: s for s in spans if s.trace_id.hex() == TRACE}
    job = next(s for s in ours.values() if s.name.startswith("job "))
    way = [job]
    while way[-1].parent_span_id in ours:
        way.append(ours[way[-1].parent_span_id])
    assert way[-1].name == "GET /api/v1/heavy_computation"
    assert way[-1].parent_span_id.hex() == CLIENT
    assert "django" in [span.name for span in way]
    statements = [s for s in ours.values() if s.name == "INSERT"]
    assert statements
    assert all(ours[s.parent_span_id].name for s in statements)
    names = {span.name for span in spans}
    assert {"SELECT", "redis"} <= names
    check_a_trace_of_its_own(spans)


def check_a_trace_of_its_own(spans: list[Span]) -> None:
    root = next(s for s in spans if s.name == "GET /api/v1/items/<id>")
    assert root.trace_id.hex() != TRACE
    assert not root.parent_span_id
    parts = [s for s in spans if s.trace_id == root.trace_id]
    assert {"django", "SELECT"} <= {span.name for span in parts}


def test_a_collector_that_hangs_harms_nobody(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        site = Site(
            tmp_path / "site", OTEL_EXPORTER_OTLP_ENDPOINT=url, READ_CACHE="0"
        )  # fmt: skip
        site.start_web()
        try:
            slowest_s = 0.0
            for _ in range(50):
                began = time.monotonic()
                assert site.get(ITEM).status == 200
                slowest_s = max(slowest_s, time.monotonic() - began)
            assert slowest_s < 3
            began = time.monotonic()
        finally:
            site.stop()
        assert time.monotonic() - began < 10


def test_without_an_address_nothing_that_makes_or_sends_spans_is_loaded(tmp_path):
    """redis-py loads what OpenTelemetry has for metrics wherever it is installed."""
    script = (
        "import sys, resilient_site.asgi, compute.pool.worker_process; "
        "parts = 'opentelemetry.sdk.trace', 'opentelemetry.exporter'; "
        "print([m for m in sys.modules if m.startswith(parts)])"
    )
    kept = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", script],
        cwd=ROOT, env=kept, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
