"""Spans of a running site, as a collector receives them."""

import gzip
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
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


def test_request_and_its_job_are_one_trace(tmp_path, postgres_own, redis_server):
    with collector() as (url, spans):
        site = Site(
            tmp_path / "site", OTEL_EXPORTER_OTLP_ENDPOINT=url, LOG_FORMAT="json",
            DATABASE_URL=postgres_own.url(), REDIS_URL=redis_server.url(), HTTPS="0",
            SECRET_KEY="tracing-" * 10, ALLOWED_HOSTS="127.0.0.1",
        )  # fmt: skip
        (tmp_path / "site").mkdir()
        assert site.manage("migrate", "-v", "0").returncode == 0
        try:
            site.start()
            answer = site.get(
                "/api/v1/heavy_computation?token=secret-of-mine",
                traceparent=f"00-{TRACE}-{CLIENT}-01",
            )
            assert answer.status in (200, 202)
            wait_for(lambda: any(s.name.startswith("job ") for s in spans), 20)
            wait_for(lambda: any(s.name.startswith("GET /api/v1/heavy") for s in spans))
            site.get("/api/v1/items/?page_size=3", **{"X-Request-ID": "mine"})
        finally:
            site.stop()
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


def test_collector_that_hangs_delays_no_request(tmp_path):
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


def run(script: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=kept | env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_without_endpoint_opentelemetry_is_not_imported(tmp_path):
    """Its API alone may be: redis-py imports it where it is installed."""
    script = (
        "import sys, resilient_site.asgi, compute.pool.worker_process; "
        "parts = 'opentelemetry.sdk', 'opentelemetry.exporter', "
        "'opentelemetry.instrumentation'; "
        "print([m for m in sys.modules if m.startswith(parts)])"
    )
    done = run(script, tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_endpoint_without_the_extra_is_logged_and_the_site_starts(tmp_path):
    script = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None; "
        "import resilient_site.asgi"
    )
    done = run(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0
    assert done.stderr.count("pip install 'resilient-site[otel]'") == 1
