"""The whole site, started once: its log lines, metrics, traces, and what it trusts."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.private_server import wait_for
from tests.resilient_site.observability.receiver import receiving
from tests.running import ROOT, Site
from tests.services_plugin import running

pytestmark = pytest.mark.once

ITEM = "/api/v1/items/bolt"
QUOTA = 1_000_000
TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PIPELINED = 300  # whose lines are more than a pipe holds


@pytest.fixture(scope="module")
def collector() -> Iterator[SimpleNamespace]:
    with receiving() as collector:
        yield collector


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    yield from running(servers.Postgres)


@pytest.fixture(scope="module")
def site(tmp_path_factory, postgres, redis_server, collector) -> Iterator[Site]:
    site, token, _ = Site.on_postgres(postgres.url(), tmp_path_factory.mktemp("site"))
    site.token = token
    site.env |= {
        "REDIS_URL": redis_server.url(db=1), "WEB_PROCESSES": "2", "LOG_FORMAT": "json",
        "RATE_LIMITS": f"anonymous-read={QUOTA}/d, anonymous-export=1/h",
        "FORWARDED_ALLOW_IPS": "127.0.0.1, 10.0.0.0/8, 2001:db8:f::/48",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        # A busy machine takes longer than half a second for an answer.
        "HEARTBEAT_TIMEOUT_S": "3",
        "PYTHONPATH": "",  # the extra `otel` needs requests
    }  # fmt: skip
    try:
        site.start()
        headers = {"Authorization": f"Token {token}"}
        body = {"id": "bolt", "name": "Bolt"}
        assert site.request("POST", "/api/v1/items", body, headers).status == 201
        yield site
    finally:
        site.stop()


# --- log lines


def lines_of(site: Site) -> list[dict[str, Any]]:
    _, _, after = site.output().partition("Ctrl-C stops it.\n")
    whole, _, _ = after.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def line_of(site: Site, request_id: str) -> dict[str, Any]:
    """Return the only line of a request."""
    (line,) = lines_of_request(site, request_id)
    return line


def lines_of_request(site: Site, request_id: str) -> list[dict[str, Any]]:
    wait_for(lambda: f'"request_id":"{request_id}"' in site.output())
    return [line for line in lines_of(site) if line.get("request_id") == request_id]


def test_every_line_is_json(site):
    def has_all() -> bool:
        names = {line["logger"].partition(".")[0] for line in lines_of(site)}
        return {"gunicorn", "uvicorn", "compute"} <= names

    wait_for(has_all)


def test_request_makes_one_line(site):
    answer = site.get("/api/v1/items/?page_size=2", **{
        "Authorization": f"Token {site.token}", "X-Request-ID": "logged",
    })  # fmt: skip
    line = line_of(site, "logged")
    assert (line["method"], line["status"]) == ("GET", 200)
    assert (line["path"], line["route"]) == ("/api/v1/items/", "/api/v1/items")
    assert line["bytes"] == len(answer.body)
    assert line["user"] == "1"
    assert line["duration_ms"] > 0
    assert len(line["trace_id"]) == 32


def test_cache_hits_and_probes_make_no_line(site):
    first, *later = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
        for path in (ITEM, ITEM, "/livez", "/readyz", "/nothing")
    )

    def request_all() -> tuple[str, str] | None:
        """Return the ids of all and of the last, if the second is a fresh hit."""
        name, name_of_last = str(uuid4()), str(uuid4())
        # On one connection, so that one process has them all.
        hidden = "".join(f"{head}X-Request-ID: {name}\r\n\r\n" for head in later[:-1])
        last = f"{later[-1]}X-Request-ID: {name_of_last}\r\nConnection: close\r\n\r\n"
        answer = site.raw(f"{first}\r\n{hidden}{last}".encode())
        assert answer.count(b"HTTP/1.1 200") == 4
        second = answer.split(b"HTTP/1.1 ")[2]
        return (name, name_of_last) if re.search(rb"; hit; ttl=\d", second) else None

    name, name_of_last = wait_for(request_all)
    assert line_of(site, name_of_last)["user"] is None
    assert name not in site.output()


def test_requests_with_secrets_leave_none_in_the_log(site):
    token, password, cookie = (
        "f" * 64,
        "a-password-of-mine",
        "c00kie-of-mine" + 18 * "c",
    )
    form = {"username": "ada", "password": password, "csrfmiddlewaretoken": cookie}
    headers = {
        "Authorization": f"Token {token}",
        "Cookie": f"sessionid={cookie}; csrftoken={cookie}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    for path in (f"/account/sign-in/?token={token}", "/api/v1/items/", "/admin/login/"):
        site.request("POST", path, urlencode(form).encode(), headers)
        site.get(f"{path}?secret={password}", **headers)
    site.get("/nothing", **{"X-Request-ID": "after-secrets"})
    line_of(site, "after-secrets")
    assert "/account/sign-in/" in site.output()
    for secret in (token, password, cookie):
        assert secret not in site.output()


def test_stopped_log_reader_and_collector_hold_up_no_request_and_no_exit(
    tmp_path, site
):
    """It is the reader of a pipe: a line that is waited for waits for ever."""
    names = ("DATABASE_URL", "SECRET_KEY", "HTTPS", "ALLOWED_HOSTS")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        site = Site(
            tmp_path / "site", LOG_FORMAT="json", ACCESS_LOG="all", PYTHONPATH="",
            HEARTBEAT_TIMEOUT_S="3",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{hanging.getsockname()[1]}",
            **{name: site.env[name] for name in names},
        )  # fmt: skip
        site.output_path.parent.mkdir()
        with open(site.output_path, "wb") as output:
            reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
        request = f"GET {ITEM} HTTP/1.1\r\nHost: localhost\r\n"
        requests = f"{request}\r\n" * (PIPELINED - 1) + request
        many = f"{requests}Connection: close\r\n\r\n".encode()
        try:
            command = [sys.executable, "manage.py", "serve", "--no-compute"]
            site.run(command, cwd=ROOT, stdout=reader.stdin, stderr=reader.stdin)
            reader.stdin.close()
            site.get(ITEM)
            reader.send_signal(signal.SIGSTOP)
            assert site.raw(many).count(b"HTTP/1.1 200") == PIPELINED
            reader.send_signal(signal.SIGCONT)
            # A line that had been waited for would have been dropped after a second.
            lines = f'"path":"{ITEM}"'
            wait_for(lambda: site.output().count(lines) == PIPELINED + 1)

            reader.send_signal(signal.SIGSTOP)
            site.raw(many)
            site.stop()
        finally:
            reader.send_signal(signal.SIGCONT)
            site.kill()
            reader.wait(90)


# --- metrics


def total(site: Site, name: str, *labels: str) -> float:
    """Return the sum of all samples that have these labels."""
    answer = site.get("/metrics")
    assert answer.status == 200
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if sample.name == f"resilient_site_{name}"
        and {*labels} <= {*sample.labels.values()}
    )


def test_counters_do_not_fall_when_processes_end(site):
    requests = "requests_total", "/api/v1/items/<id>/history"
    started = "processes_started_total", "web"
    before = total(site, *started)
    for _ in range(10):
        site.get(f"{ITEM}/history")
    wait_for(lambda: total(site, *requests) == 10)
    worker = site.web_workers()[0]
    worker.terminate()
    worker.wait(90)
    wait_for(lambda: total(site, *started) >= before + 1)
    wait_for(lambda: total(site, "processes", "web") == 2)
    assert total(site, *requests) == 10
    master = site.web_master()
    master.terminate()
    master.wait(90)
    wait_for(site.answers)
    wait_for(lambda: total(site, *started) >= before + 3)
    assert total(site, *requests) == 10


def test_unknown_paths_and_methods_make_no_series(site):
    before = total(site, "requests_total", "(unknown)", "other")
    for n in range(4):
        site.request("PROPFIND", f"/wp-{n}.php")
    wait_for(lambda: total(site, "requests_total", "(unknown)", "other") == before + 4)
    page = site.get("/metrics").body
    assert b"wp-" not in page
    assert b"PROPFIND" not in page


def test_rate_limits_and_jobs_are_counted(site):
    exports = [site.get("/api/v1/items/-/export").status for _ in range(3)]
    assert 429 in exports
    limited = "rate_limited_total", "anonymous-export"
    wait_for(lambda: total(site, *limited) == exports.count(429))
    assert site.get("/api/v1/heavy_computation?size=1000").status in (200, 202)
    wait_for(lambda: total(site, "jobs_ended_total") >= 1)


def test_job_of_an_anonymous_client_that_leaves_is_cancelled(site):
    """Two at a time may be under way for one address."""
    get = f"GET /api/v1/heavy_computation?size={800_000_000} HTTP/1.1\r\n"
    request = f"{get}Host: localhost\r\n\r\n".encode()
    token = {"Authorization": f"Token {site.token}"}
    listed = "/api/v1/jobs?task=heavy_computation&state="
    wait_for(site.pool)[0].suspend()  # it would finish soon
    with ExitStack() as peers:
        for _ in range(2):
            peer = socket.create_connection((site.host, site.port))
            peers.enter_context(peer).sendall(request)

        def number(state: str) -> int:
            return len(site.get(listed + state, **token).json()["results"])

        wait_for(lambda: number("running") + number("queued") == 2)
        third = site.get("/api/v1/heavy_computation?size=1000")
        assert (third.status, third.json()["code"]) == (429, "too_many_jobs")
    # At once, not when the supervisor finds them.
    wait_for(lambda: number("cancelled") == 2, timeout=30)
    assert site.get("/api/v1/heavy_computation?size=1000").status == 200


# --- traces


def received(collector: SimpleNamespace) -> list[Span]:
    """Return all spans that have been received so far."""
    spans = vars(collector).setdefault("spans", [])
    for _ in range(collector.bodies.qsize()):
        request = ExportTraceServiceRequest.FromString(collector.bodies.get())
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                spans.extend(scope.spans)
    return spans


def trace_of(collector: SimpleNamespace, trace: str, *names: str) -> list[Span]:
    """Return the spans of a trace, as soon as those with these names are there."""

    def found() -> list[Span]:
        spans = [s for s in received(collector) if s.trace_id.hex() == trace]
        return spans if {*names} <= {span.name for span in spans} else []

    return wait_for(found)


def test_request_and_its_job_are_one_trace(site, collector):
    request, job = "GET /api/v1/heavy_computation", "job heavy_computation"
    answer = site.get(
        "/api/v1/heavy_computation?size=1000&token=secret-of-mine",
        traceparent=f"00-{TRACE}-{CLIENT}-01",
        Prefer="handling=lenient",
    )
    assert answer.status in (200, 202)
    spans = {s.span_id: s for s in trace_of(collector, TRACE, request, job)}
    way = [next(s for s in spans.values() if s.name == job)]
    while way[-1].parent_span_id in spans:
        way.append(spans[way[-1].parent_span_id])
    assert way[-1].name == request
    assert way[-1].parent_span_id.hex() == CLIENT
    assert len(way) == 3  # Django's is between them
    statements = [s for s in spans.values() if s.name == "INSERT"]
    assert statements
    assert all(s.parent_span_id in spans for s in statements)
    assert "secret-of-mine" not in str(received(collector))


def test_request_without_a_trace_starts_one(site, collector):
    request, ids = "GET /api/v1/items", map("mine-{}".format, count())

    def trace_with_redis():
        """Redis is not asked for a moment after it was too slow."""
        id = next(ids)
        site.get("/api/v1/items/?page_size=3", **{"X-Request-ID": id})
        trace = trace_of(collector, lines_of_request(site, id)[0]["trace_id"], request)
        values = {a.value.string_value for span in trace for a in span.attributes}
        return trace if "redis" in values else None

    trace = wait_for(trace_with_redis)
    (root,) = [span for span in trace if not span.parent_span_id]
    assert root.name == request
    assert "SELECT" in {span.name for span in trace}
    # What belongs to no request and no job makes no trace.
    roots = {s.name for s in received(collector) if not s.parent_span_id}
    assert not roots & {"SELECT", "INSERT", "UPDATE", "GET", "PING", "SUBSCRIBE"}


# --- what it trusts


def spent(site: Site, *forwarded: str, source: str = "", **headers: str) -> int:
    """Send one request; return how many this client has sent so far."""
    lines = [f"X-Forwarded-For: {value}" for value in forwarded]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["GET /api/v1/nothing HTTP/1.1", "Host: localhost", *lines])
    answer = site.raw(f"{head}\r\nConnection: close\r\n\r\n".encode("latin-1"), source)
    _, _, found = answer.partition(b'ratelimit: "anonymous-read";r=')
    return QUOTA - int(found.partition(b";")[0])


def wait_for_one_client(send: Callable[[], list[int]]) -> None:
    """Wait until the requests count as one client's: a slow Redis is left alone."""

    def is_one() -> bool:
        found = send()
        return found == [found[0] + n for n in range(len(found))]

    wait_for(is_one)


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs an alias")
def test_forwarded_headers_of_others_than_proxies_are_ignored(site):
    other = {"Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    forged = [
        [], ["203.0.113.1"], ["203.0.113.2, 127.0.0.1"], ["203.0.113.3", "203.0.113.4"],
        ["127.0.0.1"], ["[2001:db8::1]:443"], ["unknown, , \xffx"], ["," * 5_000],
    ]  # fmt: skip
    wait_for_one_client(
        lambda: [spent(site, *line, source="127.0.0.2", **other) for line in forged]
    )


def test_behind_proxies_the_last_untrusted_address_counts(site):
    forwarded = [
        ["192.0.2.9"], ["192.0.2.9:4711"], ["203.0.113.1, 192.0.2.9"],
        ["203.0.113.1", "192.0.2.9"], ["unknown, 192.0.2.9"],
        ["x" * 5_000 + ", 192.0.2.9"], ["203.0.113.1, 192.0.2.9, 10.1.2.3"],
        ["203.0.113.1, 192.0.2.9", "10.1.2.3,[2001:db8:f::1]:80"],
    ]  # fmt: skip
    wait_for_one_client(lambda: [spent(site, *lines) for lines in forwarded])


def test_breaker_is_overridden_in_every_process(site):
    def count(text: str) -> int:
        return site.output().count(f"Circuit breaker for the cache: {text}.")

    file = site.output_path.parent / "breakers.json"
    file.write_text('{"cache": {"state": "open"}}')
    try:
        wait_for(lambda: count("forced open") == 3)
        site.web_workers()[0].kill()
        wait_for(lambda: count("forced open") == 4)
    finally:
        file.unlink()
    wait_for(lambda: count("override removed") == 3)
