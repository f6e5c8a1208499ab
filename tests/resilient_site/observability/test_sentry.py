"""Error reports to Sentry: which are sent, without secrets, and delaying nothing."""

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Thread
from typing import Any

import brotli
import pytest

from tests.running import ROOT

pytestmark = pytest.mark.once

# What waits for Sentry waits for so long (sentry_sdk.transport).
SENTRY_TIMEOUT_S = 30
SECRET = "a-secret-of-mine"  # noqa: S105
FAILURES = f"""
import logging, time
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client
from items import views
from resilient_site.resilience import breakers

call_command("migrate", verbosity=0)
def fail(error):
    def raising(*args, **kwargs):
        raise type(error)(*error.args)
    views.ListQuery.parse = raising
client = Client(raise_request_exception=False, headers={{"x-request-id": "fault"}})
client.force_login(User.objects.create_superuser("ada"))
handler = WSGIHandler()  # as the edge has it
def get(path):
    path, _, query = path.partition("?")
    environ = client._base_environ(PATH_INFO=path, QUERY_STRING=query)
    status = []
    b"".join(handler(environ, lambda line, *rest: status.append(int(line[:3]))))
    return status[0]
slowest = 0
fail(ZeroDivisionError("password={SECRET}"))
for n in range(3):
    began = time.monotonic()
    assert get("/items/?token={SECRET}") == 500
    slowest = max(slowest, time.monotonic() - began)
fail(OperationalError("The server is down."))
for n in range(20):
    assert get("/items/") == 503
for n in range(3):
    breakers.database.trip(OperationalError("postgres://site:{SECRET}@db"))
breakers.database.reset()
print("slowest", slowest)
"""


def run(script: str, tmp_path: Any, **env: str) -> tuple[float, str]:
    """Return the seconds from the first line of output to the end, and that line."""
    kept = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", script],
        cwd=ROOT, env=kept | env | {"ALLOWED_HOSTS": "testserver"},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout
        line = process.stdout.readline()
        began = time.monotonic()
        process.wait(60)
    assert process.returncode == 0
    return time.monotonic() - began, line


@contextmanager
def sentry(status: int = 200) -> Iterator[tuple[str, SimpleQueue[dict[str, Any]]]]:
    events: SimpleQueue[dict[str, Any]] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            unpack = {"br": brotli.decompress, "gzip": gzip.decompress}
            body = unpack[self.headers["Content-Encoding"]](body)
            for line in body.splitlines():
                found = json.loads(line)
                if "event_id" in found and "level" in found:
                    events.put(found)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://key@127.0.0.1:{server.server_port}/1", events
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_failures_are_reported_and_a_change_of_state_once(tmp_path):
    with sentry() as (dsn, events):
        run(FAILURES, tmp_path, SENTRY_DSN=dsn, RELEASE="1.2.3")
        reports = [events.get(timeout=5) for _ in range(events.qsize())]
    failures = [event for event in reports if "exception" in event]
    (change,) = [event for event in reports if "exception" not in event]
    assert len(failures) == 3
    for failure in failures:
        (value,) = failure["exception"]["values"]
        assert value["type"] == "ZeroDivisionError"
        assert failure["release"] == "1.2.3"
        assert failure["tags"]["request_id"] == "fault"
        assert failure["user"] == {"id": "1"}
        assert failure["request"] == {
            "method": "GET",
            "url": "http://testserver/items/",
        }
    assert "Circuit breaker" in change["logentry"]["message"]
    assert SECRET not in json.dumps(reports)
    assert "ada" not in json.dumps([event.get("user") for event in reports])


def test_sentry_that_hangs_delays_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        dsn = f"http://key@127.0.0.1:{hanging.getsockname()[1]}/1"
        end_s, line = run(FAILURES, tmp_path, SENTRY_DSN=dsn)
    assert float(line.split()[1]) < SENTRY_TIMEOUT_S
    assert end_s < SENTRY_TIMEOUT_S


def test_without_dsn_sentry_is_not_imported(tmp_path):
    script = "import sys; print(sorted(m for m in sys.modules if 'sentry' in m))"
    assert run(script, tmp_path)[1].strip() == "[]"
