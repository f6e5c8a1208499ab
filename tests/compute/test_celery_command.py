"""Celery where it is to be, by its own command, and where it is not."""

import subprocess
import sys

import pytest
from django.db import connection  # noqa: F401 - for skipif

from compute.models import Job
from tests.compute import brokers
from tests.compute.conftest import ended, running
from tests.private_server import wait_for
from tests.running import ROOT

# The relay alone, until its standard input is closed.
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


@pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="a site on several machines"
)
def test_celery_s_own_command_runs_a_worker(
    rabbitmq_server, shared_database, submit, tmp_path
):
    """It does what is handed over, by a relay elsewhere."""
    brokers.delete_queue(rabbitmq_server.url())
    env = shared_database | {"BROKER_URL": rabbitmq_server.url()}
    output = tmp_path / "output"
    command = [
        sys.executable,
        "-m",
        "celery",
        "-q",
        "-A",
        "compute.celery.app",
        "worker",
    ]
    with (
        output.open("ab") as log,
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log) as worker,
        subprocess.Popen(
            [sys.executable, "-c", RELAY],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stderr=log,
        ) as relaying,
    ):  # fmt: skip
        try:
            wait_for(lambda: " ready." in output.read_text())
            job = ended(submit("crash_once"))
            assert (job.state, job.attempts) == ("succeeded", 2)
            running(submit("nap", seconds=1))
            worker.terminate()
            assert worker.wait(20) == 0
            assert Job.objects.get(task="nap").state == "succeeded"
        finally:
            worker.kill()
            relaying.stdin.close()
            text = output.read_text()
            print(text)  # noqa: T201 - for when it fails
    assert "Traceback" not in text
    assert "PendingDeprecation" not in text


def test_the_web_process_does_not_load_celery(shared_database):
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
