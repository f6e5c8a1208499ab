"""Web and compute processes under `manage.py serve`: killed, restarted and stopped.

A test waits for what it expects, for as long as a busy machine may take.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.private_server import has_ended, wait_for
from tests.running import ROOT, Site, first_start

pytestmark = pytest.mark.once

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it")
SERVE = [sys.executable, "manage.py", "serve"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A site whose processes a test may kill if it waits until they are back."""
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site.start()
    finally:
        assert site.stop() == 0


@pytest.fixture
def own_site(tmp_path) -> Iterator[Site]:
    """A site that the test starts and stops, and that leaves no process."""
    shutil.copytree(first_start(), tmp_path / "data")
    site = Site(tmp_path / "data")
    try:
        yield site
        wait_for(lambda: not site.processes())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((site.host, site.port), 1)
    finally:
        site.kill()


@contextmanager
def request_under_way(site: Site) -> Iterator[socket.socket]:
    """A request that the application has begun to read."""
    with socket.create_connection((site.host, site.port), timeout=20) as client:
        client.sendall(
            b"POST /api/v1/items/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        yield client


def kill(*processes: psutil.Process) -> None:
    """Return when they have ended, and what ended with them."""
    for process in processes:
        process.kill()
    wait_for(lambda: all(map(has_ended, processes)))


def test_killed_web_master_restarts_and_no_client_is_refused(site):
    compute = site.compute()
    for _ in range(2):
        master = site.web_master()
        (worker,) = wait_for(master.children)
        kill(master)
        assert site.get("/api/v1/items").status == 200
        wait_for(lambda: has_ended(worker))  # noqa: B023 - called at once
    assert site.compute() == compute


def test_killed_compute_restarts_and_the_web_goes_on(site):
    master, workers = site.web_master(), site.web_workers()
    for _ in range(2):
        compute = site.compute()
        kill(compute)
        assert site.get("/api/v1/items").status == 200
        assert site.compute() != compute
    wait_for(site.pool)
    assert (site.web_master(), site.web_workers()) == (master, workers)


def test_compute_does_not_hold_the_port(site):
    wait_for(site.pool)
    listening = {
        process
        for process in site.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {site.supervisor(), site.web_master(), *site.web_workers()}


@linux
def test_nohup_outlives_its_terminal_but_not_the_supervisor(own_site):
    own_site.run(
        ["nohup", *SERVE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    own_site.process.stdout.close()
    own_site.process.send_signal(signal.SIGHUP)
    kill(own_site.web_master(), own_site.compute())
    assert own_site.get("/api/v1/items").status == 200
    wait_for(own_site.pool)
    own_site.supervisor().kill()
    assert own_site.process.wait(90) != 0


def test_sigterm_lets_requests_finish(own_site):
    own_site.start()
    with request_under_way(own_site) as client:
        own_site.process.terminate()
        wait_for(lambda: "Handling signal: term" in own_site.output())
        client.sendall(b"{}")
        with client.makefile("rb") as received:
            assert received.read().startswith(b"HTTP/1.1 401 ")
    assert own_site.process.wait(90) == 0


def run_in_terminal(site: Site, command: list[str], cwd: Path) -> int:
    """Return the user's end of the terminal that the site runs in."""
    ours, theirs = os.openpty()
    site.run(
        command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    return ours


def test_ctrl_c_in_a_terminal_stops_the_site(own_site):
    with closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    own_site.host = own_site.env["HOST"] = "::1"
    terminal = run_in_terminal(own_site, SERVE, ROOT)
    os.write(terminal, b"\x03")
    assert own_site.process.wait(90) == 0
    with open(terminal, "rb", buffering=0) as screen:
        shown = screen.read(100_000).decode()
    assert f"Serving on http://[::1]:{own_site.port}/" in shown
    assert "Traceback" not in shown
    assert "Password" not in shown  # as this is not the first start


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for that of a Unix socket (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as name:
        yield Path(name)


def test_closed_terminal_stops_a_site_with_odd_paths_and_values(
    own_site, tmp_path, short_path
):
    root = tmp_path / 'it\'s 100 %(x)s; "odd" #1'
    root.mkdir()
    for name in ("resilient_site", "items", "compute", "templates", "deploy"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=leave)
    shutil.copy(ROOT / "manage.py", root)
    (root / "venv").symlink_to(Path(sys.prefix))
    python = root / "venv" / "bin" / Path(sys.executable).name
    here = short_path
    own_site.env |= {"ODD": "100%, %(x)s 'so' \"so\" ;#\n", "TMPDIR": str(here)}
    command = [str(python), str(root / "manage.py"), "serve"]
    terminal = run_in_terminal(own_site, command, here)
    for process in (own_site.web_master(), own_site.compute()):
        assert process.environ()["ODD"] == own_site.env["ODD"]
        assert process.cwd() == str(here)
    wait_for(own_site.pool)
    os.close(terminal)
    own_site.process.wait(90)
    assert list(here.iterdir()) == []


def test_web_without_compute_ends_with_its_killed_master(own_site):
    own_site.start("--no-compute")
    assert all("gunicorn" in process.cmdline() for process in own_site.processes())
    own_site.process.kill()
