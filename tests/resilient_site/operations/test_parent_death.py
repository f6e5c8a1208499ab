"""A process that ends with its parent, as the kernel sees it."""

import os
import signal
import subprocess
import sys

import pytest

from tests.running import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can do it")

# The child holds the pipe open for as long as it lives.
PARENT = """
import os, signal
from resilient_site.operations.parent_death import end_with
parent = os.getpid()
if os.fork() == 0:
    end_with(parent, signal.SIGTERM)
    print("tied", flush=True)
signal.pause()
"""
ORPHAN = """
import os, signal
from resilient_site.operations.parent_death import end_with
end_with(os.getpid(), signal.SIGTERM)
print("still here")
"""


def test_a_process_ends_with_its_parent():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"tied\n"
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout.read() == b""


def test_a_process_whose_parent_has_gone_before_ends_at_once():
    command = [sys.executable, "-c", ORPHAN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")
