"""Error reports to Sentry: which are sent, without secrets, and delaying nothing."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, first_start

pytestmark = pytest.mark.once

SECRET = "a-secret-of-mine"  # noqa: S105
FAILURES = f"""
import logging
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.db import OperationalError
from django.test import Client
from items import views
from resilient_site.resilience import breakers

def fail(error):
    def raising(*args, **kwargs):
        raise type(error)(*error.args)
    views.ListQuery.parse = raising
client = Client(raise_request_exception=False, headers={{"x-request-id": "fault"}})
client.force_login(User.objects.get(username="admin"))
handler = WSGIHandler()  # as the edge has it
def get(path):
    path, _, query = path.partition("?")
    environ = client._base_environ(PATH_INFO=path, QUERY_STRING=query)
    status = []
    b"".join(handler(environ, lambda line, *rest: status.append(int(line[:3]))))
    return status[0]
fail(ZeroDivisionError("password={SECRET}"))
for n in range(3):
    assert get("/items/?token={SECRET}") == 500
fail(OperationalError("The server is down."))
for n in range(20):
    assert get("/items/") == 503
for n in range(3):
    breakers.database.trip(OperationalError("postgres://site:{SECRET}@db"))
breakers.database.reset()
"""


def run_failures(folder: Path, port: int) -> None:
    shutil.copy(first_start() / "site.sqlite3", folder)
    env = {
        "PATH": os.environ["PATH"], "DATA_DIR": str(folder), "RELEASE": "1.2.3",
        "ALLOWED_HOSTS": "testserver", "SENTRY_DSN": f"http://key@127.0.0.1:{port}/1",
    }  # fmt: skip
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", FAILURES]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_failures_are_reported_and_a_change_of_state_once(tmp_path, receiver):
    run_failures(tmp_path, receiver.port)
    lines = [
        json.loads(line)
        for _ in range(receiver.bodies.qsize())
        for line in receiver.bodies.get().splitlines()
    ]
    reports = [line for line in lines if "event_id" in line and "level" in line]
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
    assert "admin" not in json.dumps([event.get("user") for event in reports])


def test_sentry_that_hangs_holds_up_no_request_and_no_exit(tmp_path):
    """Each report would otherwise wait for its timeout, longer than all may take."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        run_failures(tmp_path, hanging.getsockname()[1])
