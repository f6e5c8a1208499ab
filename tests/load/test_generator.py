"""Load generator: what it counts, and how it measures latency."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

import pytest

from tests.load import generator
from tests.load.request_template import RequestTemplate

pytestmark = pytest.mark.once


class Server(ThreadingHTTPServer):
    daemon_threads = True
    status = 200
    stalls_s = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, bytes]] = []
        self.gate = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = self.command, self.path, self.rfile.read(length)
        with self.server.gate:
            if not self.server.asked:
                sleep(self.server.stalls_s)
            self.server.asked.append(asked)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_PUT = do_GET

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(**how: float) -> Iterator[Server]:
    server = Server()
    vars(server).update(how)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asking(server: Server, path: str = "/items/1", **more: str) -> RequestTemplate:
    return RequestTemplate(server.server_address[1], path, **more)


def test_rate_without_wrk_is_measured_by_python(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with serving() as server:
        per_second = generator.rate(asking(server), 0.5)

    assert per_second > 20
    assert len(server.asked) == pytest.approx(per_second * 0.5, abs=1)


def test_error_responses_are_not_counted():
    with serving(status=500) as server, pytest.raises(RuntimeError, match="0 of"):
        generator.rate_by_python(asking(server), 0.2)


@pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk")
def test_wrk_and_python_send_the_same_requests():
    template = {"path": "/{n}", "method": "PUT", "body": '{"name": "é \\"{count}\\""}'}
    with serving() as by_wrk:
        assert generator.rate(asking(by_wrk, **template), 1) > 20
    with serving() as by_python:
        generator.rate_by_python(asking(by_python, **template), 0.3)

    for method, path, body in (*by_wrk.asked, *by_python.asked):
        assert method == "PUT"
        assert 1 <= int(path.removeprefix("/")) <= 1000
        assert body.decode().startswith('{"name": "é \\"')
        assert "{" not in body.decode()[1:]


def test_latency_includes_the_wait_of_requests_that_were_due():
    with serving(stalls_s=0.5) as server:
        took = generator.latencies(asking(server), 100, 0.4)

    assert len(took) > 20
    # Each came at another moment of the half second, and none before its end.
    assert max(took) > 450
    assert sum(ms > 80 for ms in took) > len(took) / 2


def test_latency_of_a_rejected_request_is_infinite():
    with serving(status=503) as server:
        assert set(generator.latencies(asking(server), 50, 0.2)) == {float("inf")}


def test_costs_are_measured_at_a_low_rate():
    with serving() as server:
        took = generator.costs(asking(server), 5)

    assert len(server.asked) == len(took) + generator.WARM_UP
    assert all(ms > 0 for ms in took)
