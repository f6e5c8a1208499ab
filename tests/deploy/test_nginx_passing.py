"""What nginx passes on, how often it repeats it, and what it rejects by itself."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.nginx import CONFIG, Door, Nginx
from tests.deploy.upstream import scripted
from tests.private_server import wait_for
from tests.running import Answer
from tests.services_plugin import _make as make

pytestmark = pytest.mark.faults

EVENTS = b"GET /api/v1/jobs/1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass
class Route:
    nginx: Nginx
    ports: list[int]
    requests: list[tuple[str, str]]

    def __post_init__(self) -> None:
        self.site, self.narrow = Door(self.nginx.port), Door(self.nginx.narrow)


@pytest.fixture(scope="module")
def passing() -> Iterator[Route]:
    nginx = make(Nginx)
    try:
        with scripted() as (ports, requests):
            nginx.serve(*ports).start()
            yield Route(nginx, ports, requests)
    finally:
        nginx.close()


@pytest.fixture
def route(passing: Route) -> Route:
    passing.requests.clear()
    return passing


@pytest.fixture
def counting(passing: Route) -> Iterator[None]:
    """Restart nginx afterwards, which counts failures and requests."""
    yield
    passing.nginx.restart()


@pytest.mark.parametrize("machine", ["nginx/machine", "compose/machine"])
def test_configuration_of_a_machine_is_valid(
    passing: Route, machine: str, tmp_path: Path
):
    etc = tmp_path / "etc"
    shutil.copytree(CONFIG, etc)
    shutil.copytree(CONFIG.parent / machine, etc / "machine", dirs_exist_ok=True)
    for kept in ("certificate.pem", "key.pem"):
        shutil.copy(passing.nginx.config / kept, etc / "machine")
    for name in ("run", "var/log/nginx", "var/lib/nginx", "var/cache/nginx"):
        (tmp_path / name).mkdir(parents=True)
    for path in (etc / "machine").glob("*.conf"):
        text = re.sub(r" /(var|run)/", rf" {tmp_path}/\1/", path.read_text())
        # Servers and users that do not exist here.
        text = re.sub(r"server web\d:", "server 127.0.0.1:", text)
        path.write_text(re.sub("^user .*", "", text))
    command = [passing.nginx.exe, "-t", "-p", tmp_path, "-c", etc / "nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


KEY = {"Idempotency-Key": "one"}


@pytest.mark.parametrize(
    ("method", "body", "headers", "times"),
    [
        ("POST", b"x", {}, 1), ("POST", None, {}, 1), ("PATCH", b"x", {}, 1),
        ("PUT", b"x", {}, 1), ("DELETE", None, {}, 1),
        ("POST", b"x", KEY, 2), ("DELETE", b"x", KEY, 2), ("GET", None, {}, 2),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("counting")
def test_only_what_is_safe_to_repeat_is_repeated(
    route: Route, method: str, body: bytes | None, headers: dict[str, str], times: int
):
    answer = route.site.request(method, "/api/break", body, headers)
    assert (answer.status, answer.json()["code"]) == (502, "unavailable")
    assert route.requests == [(method, "/api/break")] * times


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_write_that_was_not_sent_goes_to_the_other_process(route: Route, method: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening
        nginx = make(Nginx).serve(taken.getsockname()[1], route.ports[0])
        try:
            site = Door(nginx.start().port)
            assert [site.request(method, "/echo").status for _ in range(4)] == [200] * 4
        finally:
            nginx.close()
    assert route.requests == [(method, "/echo")] * 4


def test_rejection_is_passed_on_and_is_no_failure(route: Route):
    assert [route.site.get("/busy").status for _ in range(6)] == [503] * 6
    assert route.requests == [("GET", "/busy")] * 6


def test_deleted_resource_is_not_served_stale(route: Route):
    def get() -> Answer:
        return route.site.get("/deletable")

    wait_for(lambda: get().headers["Cache-Status"] == "nginx; hit")
    assert route.site.request("DELETE", "/deletable").status == 404
    wait_for(lambda: get().status == 404)


@pytest.mark.parametrize(
    ("name", "times"), [("sessionid", 2), ("__Host-sessionid", 2), ("mysessionid", 1)]
)
def test_response_to_a_session_is_not_cached(route: Route, name: str, times: int):
    for _ in range(2):
        route.site.get(f"/kept/{name}", Cookie=f"a=b; {name}=x")
    assert route.requests == [("GET", f"/kept/{name}")] * times


def test_forwarding_headers_of_a_client_are_dropped(route: Route):
    names = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP")
    forged = dict.fromkeys(names, "192.0.2.7") | {"X-Forwarded-Proto": "https"}
    headers = route.site.get("/echo", **forged).json()
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["Host"] == f"127.0.0.1:{route.nginx.port}"
    assert not {"X-Forwarded-Host", "Forwarded", "X-Real-IP"} & headers.keys()


def test_request_id_is_accepted_or_generated(route: Route):
    answer = route.site.get("/echo", **{"X-Request-ID": "mine.1"})
    assert answer.json()["X-Request-ID"] == answer.headers["X-Request-ID"] == "mine.1"
    answer = route.site.get("/echo", **{"X-Request-ID": 'a"b'})
    assert answer.json()["X-Request-ID"] == answer.headers["X-Request-ID"]
    assert len(answer.headers["X-Request-ID"]) == 32


def test_event_is_passed_on_at_once(route: Route):
    with socket.create_connection(("127.0.0.1", route.nginx.port), timeout=90) as peer:
        peer.sendall(EVENTS)
        received = b""
        # The stream has no end, so nothing can wait for it.
        while b"data: first" not in received:
            received += peer.recv(4096)
        assert b"gzip" not in received


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /%zz HTTP/1.1", 400), (f"GET /{'a' * 40_000} HTTP/1.1", 414),
        ("TRACE / HTTP/1.1", 405), ("GET / HTTP/3.0", 505),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip", 501),
    ],
)  # fmt: skip
def test_malformed_request_is_rejected(route: Route, line: str, status: int):
    with socket.create_connection(("127.0.0.1", route.nginx.port), timeout=90) as peer:
        peer.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
        answer = http.client.HTTPResponse(peer)
        answer.begin()
        body = answer.read().decode()
    assert answer.status == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-ID"] in body
    assert route.requests == []


def test_large_body_is_rejected_unread(route: Route):
    length = {"Content-Length": str(20 * 1024 * 1024)}
    answer = route.site.request("POST", "/api/v1/items/", b"", length)
    problem = answer.json()
    assert (answer.status, problem["code"]) == (413, "too_large")
    assert problem["instance"] == "/api/v1/items/"
    assert {"type", "title", "status", "detail", "request_id"} <= problem.keys()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert route.requests == []


def test_cached_response_is_kept_apart_by_origin(route: Route):
    for origin in ("https://a.example", "https://b.example", "", "https://a.example"):
        headers = {"Origin": origin} if origin else {}
        answer = route.site.request("GET", "/origin", b"", headers)
        assert answer.body.decode() == origin


def begin(route: Route, path: str, *headers: str) -> socket.socket:
    """Send the head of a request, and nothing of its body."""
    peer = socket.create_connection(("127.0.0.1", route.nginx.port), timeout=90)
    head = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
    peer.sendall("\r\n".join(head).encode())
    return peer


def read_answer(peer: socket.socket) -> tuple[int, bytes]:
    with peer, http.client.HTTPResponse(peer) as answer:
        answer.begin()
        return answer.status, answer.read()


@pytest.mark.parametrize("length", [1_100_000, 9_999_999, 16_000_000])
@pytest.mark.parametrize(
    "path", ["/api/v1/items/", "/api/v1/jobs/", "/items/-/import/"]
)
@pytest.mark.parametrize("header", ["Accept: */*", "Cookie: a=b", "Authorization: x"])
def test_large_body_without_a_credential_is_rejected_unread(
    route: Route, length: int, path: str, header: str
):
    peer = begin(route, path, f"Content-Length: {length}", header)
    assert read_answer(peer)[0] == 413
    assert route.requests == []


TOKEN = "Authorization: Token t"


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 2000000", TOKEN),
        ("Content-Length: 2000000", "Cookie: a=b; sessionid=c"),
        ("Transfer-Encoding: chunked", "Accept: */*"),
    ],
)
def test_large_body_is_not_kept_by_nginx(route: Route, headers: tuple[str, ...]):
    assert read_answer(begin(route, "/api/unread", *headers)) == (413, b"unread")
    assert route.requests == [("POST", "/api/unread")]


@pytest.mark.usefixtures("counting")
def test_large_bodies_of_a_client_at_a_time_are_limited(route: Route):
    peers = [begin(route, "/echo", "Content-Length: 2000000", TOKEN) for _ in range(16)]
    wait_for(lambda: len(route.requests) == 16)
    assert (
        read_answer(begin(route, "/api/v1/jobs/", "Content-Length: 2000000", TOKEN))[0]
        == 429
    )
    assert route.site.request("POST", "/echo", {"small": 1}).status == 200
    assert route.site.get("/echo").status == 200
    for peer in peers:
        peer.close()


@pytest.mark.usefixtures("counting")
def test_addresses_of_one_ipv6_network_are_one_client(route: Route):
    def statuses(*addresses: str) -> set[int]:
        return {
            route.narrow.get("/api/v1/echo", **{"X-Client": address}).status
            for address in addresses
        }

    assert statuses(*(f"2001:db8:1:2:{n}::" for n in range(1, 20))) == {200, 429}
    assert statuses("2001:db8:1:3::1", "2001:db8::1", "192.0.2.1") == {200}


@pytest.mark.usefixtures("counting")
def test_request_rate_is_limited(route: Route):
    answers = [route.narrow.get("/api/v1/echo") for _ in range(8)]
    rejected = [answer for answer in answers if answer.status != 200]
    assert rejected
    assert len(route.requests) == 8 - len(rejected) >= 3
    for answer in rejected:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["code"] == "too_many_requests"
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_tls_is_current_and_its_scheme_is_passed_on(route: Route):
    context = ssl.create_default_context(cafile=route.nginx.config / "certificate.pem")
    address = ("127.0.0.1", route.nginx.secure)
    connection = http.client.HTTPSConnection(*address, context=context)
    connection.request("GET", "/echo")
    assert b'"X-Forwarded-Proto": "https"' in connection.getresponse().read()
    connection.close()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(address) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
    ):
        assert peer.version() == "TLSv1.3"
        assert peer.selected_alpn_protocol() == "h2"


def test_status_of_nginx_is_served_and_metrics_are_not(route: Route):
    assert b"Active connections" in Door(route.nginx.status).get("/nginx_status").body
    for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics"):
        assert route.site.get(path).status == 404
    assert route.requests == []
