"""What nginx sends on, how often, and what it refuses by itself."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.conftest import Door
from tests.deploy.nginx import CONFIG, Nginx
from tests.deploy.upstream import scripted
from tests.private_server import wait_for
from tests.services_plugin import _make as make

pytestmark = pytest.mark.faults


WRITES = ("POST", "PATCH", "PUT", "DELETE")


@dataclass
class Way:
    nginx: Nginx
    ports: list[int]
    asked: list[tuple[str, str]]

    def __post_init__(self) -> None:
        self.site, self.narrow = Door(self.nginx.port), Door(self.nginx.narrow)


@pytest.fixture(scope="module")
def passing() -> Iterator[Way]:
    nginx = make(Nginx)
    try:
        with scripted() as (ports, asked):
            nginx.serve(*ports).start()
            yield Way(nginx, ports, asked)
    finally:
        nginx.close()


@pytest.fixture
def way(passing: Way) -> Way:
    passing.nginx.restart()  # so that both web processes count as well
    passing.asked.clear()
    return passing


@pytest.mark.parametrize("machine", ["nginx/machine", "compose/machine"])
def test_what_machines_are_given_is_valid(passing: Way, machine: str, tmp_path: Path):
    shutil.copytree(CONFIG, tmp_path / "etc")
    shutil.copytree(
        CONFIG.parent / machine, tmp_path / "etc" / "machine", dirs_exist_ok=True
    )
    for kept in ("certificate.pem", "key.pem"):
        shutil.copy(passing.nginx.config / kept, tmp_path / "etc" / "machine")
    for name in ("run", "var/log/nginx", "var/lib/nginx", "var/cache/nginx"):
        (tmp_path / name).mkdir(parents=True)
    for path in (tmp_path / "etc" / "machine").glob("*.conf"):
        text = re.sub(r" /(var|run)/", rf" {tmp_path}/\1/", path.read_text())
        # Names of the other place: that there are such servers and users.
        text = re.sub(r"server web\d:", "server 127.0.0.1:", text)
        path.write_text(re.sub("^user .*", "", text))
    folder = tmp_path
    done = subprocess.run(
        [passing.nginx.exe, "-t", "-p", folder, "-c", folder / "etc" / "nginx.conf"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.parametrize("body", [b"x", None])
@pytest.mark.parametrize("method", WRITES)
def test_a_write_is_sent_once(way: Way, method: str, body: bytes | None):
    answer = way.site.request(method, "/api/break", body)
    assert answer.status == 502
    assert answer.json()["code"] == "unavailable"
    assert way.asked == [(method, "/api/break")]


@pytest.mark.parametrize("method", WRITES)
def test_a_write_that_was_not_sent_goes_to_the_other(way: Way, method: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        nginx = make(Nginx).serve(taken.getsockname()[1], way.ports[0])
        try:
            site = Door(nginx.start().port)
            assert [site.request(method, "/echo").status for _ in range(4)] == [200] * 4
        finally:
            nginx.close()
    assert way.asked == [(method, "/echo")] * 4


@pytest.mark.parametrize("method", WRITES)
def test_a_write_with_a_key_is_sent_again(way: Way, method: str):
    way.site.request(method, "/api/break", b"x", {"Idempotency-Key": "one"})
    assert way.asked == [(method, "/api/break")] * 2


def test_a_read_is_sent_again(way: Way):
    way.site.get("/api/break")
    assert way.asked == [("GET", "/api/break")] * 2


def test_a_refusal_is_passed_on_and_speaks_against_nobody(way: Way):
    assert [way.site.get("/busy").status for _ in range(6)] == [503] * 6
    assert way.asked == [("GET", "/busy")] * 6


def test_what_is_gone_is_not_shown_as_the_last_known(way: Way):
    assert way.site.get("/gone").status == 200
    assert way.site.get("/gone").status == 200
    assert way.asked == [("GET", "/gone")]
    wait_for(lambda: way.site.get("/gone").status == 404)


def test_nobody_else_says_who_the_client_is(way: Way):
    forged = {
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=192.0.2.7",
        "X-Real-IP": "192.0.2.7",
    }
    told = way.site.get("/echo", **forged).json()
    assert told["X-Forwarded-For"] == "127.0.0.1"
    assert told["X-Forwarded-Proto"] == "http"
    assert told["Host"] == f"127.0.0.1:{way.nginx.port}"
    assert not {"X-Forwarded-Host", "Forwarded", "X-Real-IP"} & told.keys()


def test_the_id_of_a_request_is_taken_over_or_made(way: Way):
    answer = way.site.get("/echo", **{"X-Request-ID": "mine.1"})
    assert answer.json()["X-Request-ID"] == answer.headers["X-Request-ID"] == "mine.1"
    answer = way.site.get("/echo", **{"X-Request-ID": 'a"b'})
    assert answer.json()["X-Request-ID"] == answer.headers["X-Request-ID"]
    assert len(answer.headers["X-Request-ID"]) == 32


def test_an_event_passes_at_once(way: Way):
    with socket.create_connection(("127.0.0.1", way.nginx.port), timeout=10) as peer:
        head = f"GET /api/v1/jobs/1/events HTTP/1.1\r\nHost: 127.0.0.1:{way.nginx.port}"
        peer.sendall(f"{head}\r\n\r\n".encode())
        received = b""
        # The stream goes on for as long as the test: nothing waits for its end.
        while b"data: first" not in received:
            received += peer.recv(4096)
        assert b"gzip" not in received


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /a b HTTP/1.1", 400), ("GET /%zz HTTP/1.1", 400),
        ("GET /%00 HTTP/1.1", 400), ("GET /../../etc/passwd HTTP/1.1", 400),
        ("\x16\x03\x01", 400), (f"GET /{'a' * 40_000} HTTP/1.1", 414),
        ("TRACE / HTTP/1.1", 405), ("GET / HTTP/3.0", 505),
        (f"GET / HTTP/1.1\r\nCookie: {'a' * 40_000}", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip", 501),
        ("GET / HTTP/1.1\r\nHost: a/b", 400),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_the_clients_fault(way: Way, line: str, status: int):
    with socket.create_connection(("127.0.0.1", way.nginx.port), timeout=10) as peer:
        peer.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
        answer = http.client.HTTPResponse(peer)
        answer.begin()
        body = answer.read().decode()
    assert answer.status == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-ID"] in body
    assert way.asked == []


def test_too_large_a_body_is_refused_unread(way: Way):
    connection = http.client.HTTPConnection("127.0.0.1", way.nginx.port, timeout=10)
    connection.putrequest("POST", "/api/v1/items/")
    connection.putheader("Content-Length", str(20 * 1024 * 1024))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert b'"code":"too_large"' in answer.read()
    connection.close()
    assert way.asked == []


def test_who_asks_too_often_is_told_so(way: Way):
    answers = [way.narrow.get("/api/v1/echo") for _ in range(8)]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(way.asked) == 8 - len(refused) >= 3
    for answer in refused:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["code"] == "too_many_requests"
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_who_has_too_many_connections_is_told_so(way: Way):
    held = [socket.create_connection(("127.0.0.1", way.nginx.narrow)) for _ in "12"]
    for peer in held:
        peer.sendall(b"GET /api/v1/jobs/1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert peer.recv(12) == b"HTTP/1.1 200"
    assert way.narrow.get("/api/v1/echo").status == 429
    for peer in held:
        peer.close()
    wait_for(lambda: way.narrow.get("/api/v1/echo").status == 200)


def test_those_who_drip_keep_nobody_waiting(way: Way):
    dripping = [
        socket.create_connection(("127.0.0.1", way.nginx.port)) for _ in "x" * 200
    ]
    for peer in dripping:
        peer.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(way.site.get, ["/echo"] * 40))
    assert {answer.status for answer in answers} == {200}
    assert time.monotonic() - began < 3
    assert ("POST", "/slow") not in way.asked
    for peer in dripping:
        peer.close()


def test_tls_is_current(way: Way):
    context = ssl.create_default_context(cafile=way.nginx.config / "certificate.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = ("127.0.0.1", way.nginx.secure)
    with (
        socket.create_connection(address) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
    ):
        assert peer.version() == "TLSv1.3"
        assert peer.selected_alpn_protocol() == "h2"
    old = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{way.nginx.secure}"]
        + ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert "alert protocol version" in old.stderr


def test_the_scheme_is_passed_on(way: Way):
    context = ssl.create_default_context(cafile=way.nginx.config / "certificate.pem")
    connection = http.client.HTTPSConnection(
        "127.0.0.1", way.nginx.secure, context=context
    )
    connection.request("GET", "/echo")
    assert b'"X-Forwarded-Proto": "https"' in connection.getresponse().read()
    connection.close()


def test_its_own_figures_are_told(way: Way):
    assert b"Active connections" in Door(way.nginx.status).get("/nginx_status").body
    assert way.site.get("/metrics").status == 404
    assert way.asked == []
