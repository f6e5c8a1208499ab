"""Web and compute processes under `manage.py serve`: killed, stopped and started again.

A test waits for what it expects, for as long as a busy machine may take.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from django.conf import settings

from tests.private_server import has_ended, wait_for
from tests.running import ROOT, Site
from tests.servers import Postgres

pytestmark = pytest.mark.once

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part")
SERVE = [sys.executable, "manage.py", "serve"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres | None]:
    """A server for the sites of this module, where the tests are on PostgreSQL."""
    if settings.EMBEDDED:
        yield None
        return
    server = Postgres().start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, postgres) -> Site:
    """A site that needs no setting up; only its copies are started."""
    env = {"DJANGO_SUPERUSER_PASSWORD": "x"}
    if postgres:
        hosts = "localhost,127.0.0.1,[::1]"
        env |= {"DATABASE_URL": postgres.url(), "HTTPS": "0", "ALLOWED_HOSTS": hosts}
        env |= {"SECRET_KEY": "s" * 50}
    site = Site(tmp_path_factory.mktemp("prepared"), **env)
    user = ["createsuperuser", "--no-input", "--username=a", "--email=a@example.org"]
    for command in (["migrate", "-v0"], user):
        done = site.manage(*command)
        assert done.returncode == 0, done
    return site


def copy_of(site: Site, data_dir: Path) -> Site:
    shutil.copytree(site.env["DATA_DIR"], data_dir)
    copy = Site(data_dir)
    copy.env = site.env | {"DATA_DIR": str(data_dir), "PORT": str(copy.port)}
    return copy


@pytest.fixture(scope="module")
def site(tmp_path_factory, prepared) -> Iterator[Site]:
    """A site whose parts a test may kill if it waits until they are back."""
    site = copy_of(prepared, tmp_path_factory.mktemp("site") / "data")
    try:
        yield site.start()
    finally:
        assert site.stop() == 0


@pytest.fixture
def own_site(tmp_path, prepared) -> Iterator[Site]:
    """A site that the test starts, and that ends without a trace."""
    site = copy_of(prepared, tmp_path / "data")
    try:
        yield site
        assert site.stop() == 0
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


def answer(client: socket.socket) -> bytes:
    with client.makefile("rb") as received:
        return received.read()


def kill(*processes: psutil.Process) -> None:
    """Return when they have ended, and what ended with them."""
    for process in processes:
        process.kill()
    wait_for(lambda: all(map(has_ended, processes)))


def test_a_killed_web_is_back_at_once_and_no_client_is_refused(site):
    compute = site.compute()
    for _ in range(4):
        master = site.web_master()
        (worker,) = wait_for(master.children)
        kill(master)
        wait_for(lambda: has_ended(worker))  # noqa: B023 - asked at once
        assert site.get("/api/v1/items").status == 200
    assert site.compute() == compute


def test_a_killed_compute_is_back_at_once_and_the_web_is_not_disturbed(site):
    master, workers = site.web_master(), site.web_workers()
    for _ in range(4):
        compute = site.compute()
        kill(compute)
        assert site.get("/api/v1/items").status == 200
        assert site.compute() != compute
    wait_for(site.pool)
    assert (site.web_master(), site.web_workers()) == (master, workers)


def test_a_killed_web_worker_is_replaced(site):
    master = site.web_master()
    kill(*site.web_workers())
    assert site.get("/api/v1/items").status == 200
    assert site.web_master() == master


def test_a_paused_supervisor_disturbs_nobody_and_catches_up(site):
    supervisor, compute = site.supervisor(), site.compute()
    supervisor.suspend()
    try:
        assert site.get("/api/v1/items").status == 200
        kill(compute)
    finally:
        supervisor.resume()
    assert site.compute() != compute


def test_a_lost_database_ends_no_process(site, postgres):
    if postgres is None:
        pytest.skip("SQLite is a file")
    wait_for(site.pool)
    before = set(site.processes())
    postgres.kill()
    assert site.get("/api/v1/items?search=never-asked").status == 503
    wait_for(lambda: "The database failed" in site.output())
    postgres.start()
    wait_for(lambda: site.get("/api/v1/items?search=never-asked").status == 200)
    wait_for(lambda: "The database is back" in site.output())
    assert set(site.processes()) == before


def test_the_web_alone_has_the_socket(site):
    wait_for(site.pool)
    listening = {
        process
        for process in site.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {site.supervisor(), site.web_master(), *site.web_workers()}


@linux
def test_nothing_outlives_a_killed_supervisor(prepared, tmp_path):
    site = copy_of(prepared, tmp_path / "data").start()
    site.supervisor().kill()
    assert site.stop() == -signal.SIGKILL
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((site.host, site.port), 1)


def test_a_stop_lets_requests_end_and_refuses_new_ones(own_site):
    own_site.start()
    with request_under_way(own_site) as client:
        own_site.process.terminate()
        wait_for(lambda: not own_site.answers())
        assert own_site.process.poll() is None
        client.sendall(b"{}")
        assert answer(client).startswith(b"HTTP/1.1 401 ")


def test_ctrl_c_once_more_waits_for_nobody(own_site):
    own_site.start()
    with request_under_way(own_site):
        own_site.process.send_signal(signal.SIGINT)
        wait_for(lambda: "Waiting for connections to close" in own_site.output())
        assert own_site.process.poll() is None
        assert own_site.stop(signal.SIGINT) == 0
    assert "Quick shutdown requested" in own_site.output()


@pytest.fixture
def terminal(own_site) -> int:
    """The user's end of a terminal that a site runs in."""
    ours, theirs = os.openpty()
    own_site.run(
        SERVE, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    return ours


def test_ctrl_c_in_a_terminal_stops_it(own_site, terminal):
    os.write(terminal, b"\x03")
    assert own_site.process.wait(30) == 0
    with open(terminal, "rb", buffering=0) as screen:
        shown = screen.read(100_000).decode()
    assert f"Serving on http://127.0.0.1:{own_site.port}/" in shown
    assert "Traceback" not in shown


def test_a_closed_terminal_stops_it(own_site, terminal):
    os.close(terminal)
    assert own_site.process.wait(30) == 0


def test_with_nohup_it_outlives_its_terminal_and_whoever_reads_its_output(own_site):
    own_site.run(
        ["nohup", *SERVE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    own_site.process.stdout.close()
    own_site.process.send_signal(signal.SIGHUP)
    kill(own_site.web_master(), own_site.compute())
    assert own_site.get("/api/v1/items").status == 200
    wait_for(own_site.pool)


def test_odd_paths_and_values_are_no_obstacle_and_no_file_is_left(own_site, tmp_path):
    root = tmp_path / 'it\'s 100 %(x)s; "odd" #1'
    root.mkdir()
    for name in ("resilient_site", "items", "compute", "templates", "deploy"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=leave)
    shutil.copy(ROOT / "manage.py", root)
    (root / "venv").symlink_to(Path(sys.prefix))
    python = root / "venv" / "bin" / Path(sys.executable).name
    here = tmp_path / "here"
    here.mkdir()
    own_site.env |= {"ODD": "100%, %(x)s 'so' \"so\" ;#\n", "TMPDIR": str(here)}
    with open(own_site.output_path, "ab") as output:
        command = [str(python), str(root / "manage.py"), "serve"]
        own_site.run(command, cwd=here, stdout=output, stderr=output)
    for process in (own_site.web_master(), own_site.compute()):
        assert process.environ()["ODD"] == own_site.env["ODD"]
        assert process.cwd() == str(here)
    assert own_site.stop(signal.SIGHUP) == 0
    assert "SIGTERM indicating exit" in own_site.output()  # a restart is not meant
    assert "Traceback" not in own_site.output()
    assert list(here.iterdir()) == []


def test_it_listens_on_ipv6(own_site):
    with closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    own_site.host = own_site.env["HOST"] = "::1"
    own_site.start()
    assert f"http://[::1]:{own_site.port}/" in own_site.output()
    assert own_site.stop(signal.SIGQUIT) == 0


def test_the_web_can_be_run_without_compute(own_site):
    own_site.start("--no-compute")
    assert all("gunicorn" in process.cmdline() for process in own_site.processes())
    assert own_site.stop(signal.SIGINT) == 0


@linux
def test_web_workers_end_with_a_killed_master(prepared, tmp_path):
    site = copy_of(prepared, tmp_path / "data").start_web()
    site.process.kill()
    assert site.stop() == -signal.SIGKILL
