"""Programs that are forked, started again and stopped; a site: test_serve.py."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from resilient_site.management.commands import serve
from tests.private_server import alive, wait_for
from tests.running import ROOT

pytestmark = pytest.mark.once

PROGRAMS = """
import os, signal, subprocess, sys, time
from resilient_site.operations.supervision import Program, supervise

def fail():
    print("failed", flush=True)
    os._exit(3)

def go_on():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep = subprocess.Popen(["sleep", "600"])
    print(os.getpid(), sleep.pid, flush=True)
    while True:
        time.sleep(600)

def start_late():
    fail()

def fork(real=os.fork):
    os.fork = real
    raise OSError("no memory")

if sys.argv[1] == "start_late":
    os.fork = fork

# A shell ignores it in what runs in the background, as these tests may.
signal.signal(signal.SIGINT, signal.SIG_DFL)
run = supervise([Program(sys.argv[1], globals()[sys.argv[1]], 0.1)])
run() if run else print("ended", flush=True)
"""


@pytest.fixture
def start(request) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAMS, request.param]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("start", ["fail"], indirect=True)
def test_program_that_fails_is_started_until_the_stop(start):
    assert [start.stdout.readline() for _ in range(3)] == ["failed\n"] * 3
    start.terminate()
    output, errors = start.communicate(timeout=90)
    assert output.endswith("ended\n")
    assert errors.startswith("fail ended (3): restart.\n" * 2)
    assert start.returncode == 0


@pytest.mark.parametrize("start", ["start_late"], indirect=True)
def test_program_that_cannot_be_forked_is_started_later(start):
    assert start.stdout.readline() == "failed\n"
    start.terminate()
    output, errors = start.communicate(timeout=90)
    assert output.endswith("ended\n")
    assert errors.startswith("start_late cannot be started: no memory\n")


@pytest.mark.parametrize("start", ["go_on"], indirect=True)
def test_program_that_does_not_stop_is_killed_with_what_it_has_started(start):
    pids = [int(pid) for pid in start.stdout.readline().split()]
    start.send_signal(signal.SIGINT)
    assert start.communicate(timeout=90) == ("ended\n", "")
    assert start.returncode == 0
    wait_for(lambda: not alive(pids))


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("", ["gunicorn", "compute"]),
        ("memory://", ["gunicorn", "compute", "relay_events"]),
    ],
)
def test_events_are_relayed_if_there_is_a_broker(settings, url, names):
    settings.EVENTS_URL = url
    assert [program.name for program in serve.programs(None)] == names
