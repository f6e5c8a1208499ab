"""Celery's own command, and the processes that do not load Celery."""

import subprocess
import sys

import pytest

from tests.compute.conftest import ended, running
from tests.running import ROOT

pytestmark = pytest.mark.once

# A relay alone, until its standard input is closed.
RELAY = """
import os, sys, threading
os.environ["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
import django
django.setup()
from compute.celery.relay import Relay
relay = Relay()
threading.Thread(target=lambda: (sys.stdin.read(), relay.stop())).start()
relay.run()
"""


def test_celery_command_runs_a_worker(url, shared_database, submit, gate, tmp_path):
    """It runs the jobs that a relay elsewhere publishes."""
    env = shared_database | {"BROKER_URL": url}
    output = tmp_path / "output"
    command = "-m", "celery", "-q", "-A", "compute.celery", "worker"
    with (
        output.open("ab") as log,
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=env, stdout=log, stderr=log
        ) as worker,
        subprocess.Popen(
            [sys.executable, "-c", RELAY],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stderr=log,
        ) as relaying,
    ):  # fmt: skip
        try:
            job = ended(submit("crash_once"))
            assert (job.state, job.attempts) == ("succeeded", 2)
            job = running(submit("nap", seconds=60, gate=str(gate)))
            worker.terminate()
            gate.touch()
            assert worker.wait(90) == 0
            assert ended(job).state == "succeeded"
        finally:
            worker.kill()
            relaying.stdin.close()
            text = output.read_text()
            print(text)  # for a failed test
    assert "Traceback" not in text
    assert "PendingDeprecation" not in text


def test_web_process_does_not_load_celery(shared_database):
    program = (
        "import sys; import resilient_site.asgi;"
        "print({'celery', 'kombu', 'compute.celery.app'} & set(sys.modules))"
    )
    env = shared_database | {"DJANGO_SETTINGS_MODULE": "resilient_site.settings"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=env | {"COMPUTE_BACKEND": "celery"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "set()\n", done.stderr
