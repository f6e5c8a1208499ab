"""Error reports to Sentry: which are sent, without secrets, and delaying nothing."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.resilient_site.observability.receiver import receiving
from tests.running import ROOT, first_start

pytestmark = pytest.mark.once

SECRET = "a-secret-of-mine"  # noqa: S105
FAILURES = f"""
import sentry_sdk
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
fail(OperationalError("The server is down."))
for n in range(20):
    assert get("/items/") == 503
for n in range(3):
    breakers.database.trip(OperationalError("postgres://site:{SECRET}@db"))
breakers.database.reset()
fail(ZeroDivisionError("password={SECRET}"))
for number in (3, 20):
    for n in range(number):
        assert get("/items/?token={SECRET}") == 500
    if number == 3:
        sentry_sdk.flush(60)
        input("Now Sentry hangs.\\n")
"""


def test_failures_are_reported_and_a_change_of_state_once(tmp_path):
    """And a Sentry that hangs holds up no request and no exit.

    Each report would otherwise wait for its timeout, longer than all may take.
    """
    shutil.copy(first_start() / "site.sqlite3", tmp_path)
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", FAILURES]
    with receiving() as sentry:
        dsn = f"http://key@127.0.0.1:{sentry.port}/1"
        env = {
            "PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "RELEASE": "1.2.3",
            "ALLOWED_HOSTS": "testserver", "SENTRY_DSN": dsn,
        }  # fmt: skip
        with subprocess.Popen(
            command, cwd=ROOT, env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as site:  # fmt: skip
            site.stdout.readline()
            lines = [
                json.loads(line)
                for _ in range(sentry.bodies.qsize())
                for line in sentry.bodies.get().splitlines()
            ]
            sentry.responds.clear()
            _, errors = site.communicate("\n", timeout=90)
            assert site.returncode == 0, errors
    reports = [line for line in lines if "event_id" in line and "level" in line]
    failures = [event for event in reports if "exception" in event]
    changes = [event for event in reports if "exception" not in event]
    assert len(failures) == 3
    for failure in failures:
        (value,) = failure["exception"]["values"]
        assert value["type"] == "ZeroDivisionError"
        assert failure["release"] == "1.2.3"
        assert failure["tags"]["request_id"] == "fault"
        assert failure["user"] == {"id": "1"}
        request = {"method": "GET", "url": "http://testserver/items/"}
        assert failure["request"] == request
    texts = [change["logentry"]["message"] for change in changes]
    assert [text.partition(" of ")[0][:15] for text in sorted(texts)] == [
        "Circuit breaker", "Some calls"
    ]  # fmt: skip
    assert SECRET not in json.dumps(reports)
    assert "admin" not in json.dumps([event.get("user") for event in reports])
