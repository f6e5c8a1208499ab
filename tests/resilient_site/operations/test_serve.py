"""`manage.py serve`: the first start, requests, killed processes, and the stop.

A test waits for what it expects, for as long as a busy machine may take.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.management import CommandError, call_command

from resilient_site.resilience.deadlines import LOCK_WAIT_S
from tests.event_streams import parse_events
from tests.private_server import has_ended, wait_for
from tests.running import ROOT, Site, first_start

pytestmark = pytest.mark.once

SERVE = [sys.executable, "manage.py", "serve"]


def run_in_terminal(site: Site, command: list[str], **popen: Any) -> int:
    """Return the user's end of the terminal that the site runs in."""
    ours, theirs = os.openpty()

    def enter() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        # A shell ignores it in what runs in the background, as these tests may.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    std = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    site.run(command, **std | popen, preexec_fn=enter)
    os.close(theirs)
    return ours


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A first start, which `nohup` lets outlive its terminal but not its supervisor.

    A test may kill its processes if it waits until they are back.
    """
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder, DATA_DIR=str(folder / "var"))
    try:
        with open(site.output_path, "ab") as output:
            std = {"stdout": output, "stderr": output}
            std |= {"cwd": ROOT, "umask": 0o022}
            os.close(run_in_terminal(site, ["nohup", *SERVE], **std))
        os.killpg(site.process.pid, signal.SIGHUP)  # as its shell does when it ends
        yield site
        if sys.platform == "linux":  # the kernel does it
            site.supervisor().kill()
            assert site.process.wait(90) != 0
            wait_for(lambda: not site.processes())
        else:
            assert site.stop() == 0
        assert "Traceback" not in site.output()
    finally:
        site.kill()


@pytest.fixture
def own_site(tmp_path) -> Iterator[Site]:
    """A later start, which the test stops so that no process is left."""
    own = Site(shutil.copytree(first_start(), tmp_path / "data"))
    try:
        yield own
        wait_for(lambda: not own.processes())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own.host, own.port), 1)
    finally:
        own.kill()


def kill(process: psutil.Process) -> None:
    process.kill()
    wait_for(lambda: has_ended(process))


# --- the first start, and requests


def test_first_start_leaves_nothing_that_other_users_may_read(site):
    folder = Path(site.env["DATA_DIR"])
    wide = [path for path in (folder, *folder.rglob("*")) if is_wide(path)]
    assert (folder / "site.sqlite3").exists()
    assert wide == []


def is_wide(path: Path) -> bool:
    with suppress(FileNotFoundError):  # SQLite has just deleted it
        return bool(path.stat().st_mode & 0o077)
    return False


def test_first_start_loads_the_sample_and_creates_an_administrator(site):
    output = site.output()
    assert len(re.findall(r"Password: \S{16}", output)) == 1
    assert re.search(r"13,\d{3} items created", output)
    answer = site.get("/api/v1/items/country.DE")
    assert answer.json()["name"] == "Germany"
    assert answer.json()["tags"] == ["country", "iso-3166-1"]


def test_write_ends_while_another_process_locks_the_database(site):
    token = site.manage("create_token", "admin").stdout.split()[-1]
    headers = {"Authorization": f"Token {token}"}
    file = Path(site.env["DATA_DIR"]) / "site.sqlite3"
    item = {"name": "waits for a lock"}
    with closing(sqlite3.connect(file, isolation_level=None, timeout=90)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        answer = site.request("POST", "/api/v1/items", item, headers)
        assert time.monotonic() - began < LOCK_WAIT_S  # of a job
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "locked" in answer.json()["detail"]
    wait_for(lambda: site.request("POST", "/api/v1/items", item, headers).status == 201)


def test_static_files_and_docs_are_served_without_nginx(site):
    docs = site.get("/api/v1/docs/")
    links = re.findall(r'(?:src|href)="([^"]+)"', docs.body.decode())
    assert links
    for link in [*links, "/api/v1/schema/"]:
        assert link.startswith("/"), link
        assert site.get(link).status == 200, link


def test_job_is_followed_to_its_end(site):
    token = site.manage("create_token", "admin").stdout.strip()
    who = {"Authorization": f"Token {token}"}
    body = {"task": "heavy_computation", "params": {"size": 100_000}}
    job = site.request("POST", "/api/v1/jobs/", body, who).json()
    stream = site.get(f"/api/v1/jobs/{job['id']}/events", **who)
    states = [data["state"] for _, _, data in parse_events(stream.body)]
    assert states[-1] == "succeeded"
    assert set(states[:-1]) <= {"queued", "running"}
    waited = site.request("POST", "/api/v1/jobs/", body, who | {"Prefer": "wait=50"})
    assert (waited.status, waited.json()["state"]) == (200, "succeeded")


# --- killed processes


def test_killed_web_master_restarts_and_no_client_is_refused(site):
    compute = site.compute()
    (worker,) = wait_for(site.web_workers)
    for _ in range(5):  # however soon it ends
        kill(site.web_master())
    assert site.get("/api/v1/items").status == 200
    wait_for(lambda: has_ended(worker))
    assert site.compute() == compute


def test_killed_compute_restarts_and_the_web_goes_on(site):
    web = site.web_master(), wait_for(site.web_workers)
    for _ in range(5):
        kill(site.compute())
    assert site.get("/api/v1/items").status == 200
    wait_for(site.pool)
    assert (site.web_master(), site.web_workers()) == web


def test_compute_does_not_hold_the_port(site):
    wait_for(site.pool)

    def are_as_expected() -> bool:
        listening = {process for process in site.processes() if is_listening(process)}
        web = {site.supervisor(), site.web_master(), *wait_for(site.web_workers)}
        return listening == web

    wait_for(are_as_expected)  # a process that has just been forked is like its parent


def is_listening(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        found = process.net_connections("tcp")
        return any(one.status == psutil.CONN_LISTEN for one in found)
    return False


# The import never gets further than this row.
HOLD = """
    CREATE VIEW endless AS
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
    CREATE TRIGGER held BEFORE INSERT ON items_item WHEN NEW.name = 'Part 2000'
    BEGIN SELECT count(*) FROM endless; END;
"""


def test_killed_import_resumes(site, tmp_path):
    """No row is lost or imported twice."""
    rows = 3_000
    file = tmp_path / "parts.csv"
    file.write_text("name\n" + "".join(f"Part {n}\n" for n in range(rows)))
    path = Path(site.env["DATA_DIR"]) / "site.sqlite3"
    with closing(sqlite3.connect(path, timeout=90)) as database:

        def count() -> int:
            query = "SELECT COUNT(*) FROM items_item"
            return database.execute(query).fetchone()[0]

        before = count()
        database.executescript(HOLD)
        command = [sys.executable, "manage.py", "import_items", str(file)]
        with subprocess.Popen(command, cwd=ROOT, env=site.env) as process:
            wait_for(lambda: count() > before)
            process.kill()
        assert count() < before + rows
        database.executescript("DROP TRIGGER held; DROP VIEW endless")
        result = site.manage("import_items", str(file), "--resume")
        assert f"{rows:,} items created, 0 updated" in result.stdout, result
        assert "Resuming after line" in result.stderr
        assert count() == before + rows


# --- the stop, and other ways to start


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for that of a Unix socket (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as name:
        yield Path(name)


def test_signals_in_a_terminal_let_requests_finish_despite_odd_paths_and_values(
    own_site, tmp_path, short_path
):
    root = tmp_path / 'it\'s 100 %(x)s; "odd" #1'
    root.mkdir()
    for name in ("resilient_site", "items", "compute", "templates", "deploy"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "manage.py", root)
    (root / "venv").symlink_to(Path(sys.prefix))
    python = root / "venv" / "bin" / Path(sys.executable).name
    own_site.env |= {"ODD": "100%, %(x)s 'so' \"so\" ;#\n", "TMPDIR": str(short_path)}
    command = [str(python), str(root / "manage.py"), "serve"]
    with open(own_site.output_path, "ab") as output:
        terminal = run_in_terminal(own_site, command, cwd=short_path, stdout=output)
    for process in (own_site.web_master(), own_site.compute()):
        assert process.environ()["ODD"] == own_site.env["ODD"]
        assert process.cwd() == str(short_path)
    wait_for(own_site.pool)
    with socket.create_connection((own_site.host, own_site.port), 90) as client:
        client.sendall(
            b"POST /api/v1/items/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        os.write(terminal, b"\x03")  # Ctrl-C
        log = b""
        while b"Handling signal: term" not in log:
            log += os.read(terminal, 65536)
        own_site.process.terminate()
        os.close(terminal)  # which sends SIGHUP
        client.sendall(b"{}")
        with client.makefile("rb") as received:
            assert received.read().startswith(b"HTTP/1.1 401 ")
    # Not by a signal: each of the three is handled.
    assert own_site.process.wait(90) == 0
    assert b"Traceback" not in log
    assert f"Serving on http://127.0.0.1:{own_site.port}/" in own_site.output()
    assert "Password" not in own_site.output()  # as this is not the first start
    assert list(short_path.iterdir()) == []


def test_web_runs_without_compute_and_on_ipv6(own_site):
    with closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    own_site.host = own_site.env["HOST"] = "::1"
    own_site.start("--no-compute")
    assert f"Serving on http://[::1]:{own_site.port}/" in own_site.output()
    assert all(process.name() == "gunicorn" for process in own_site.processes())
    own_site.process.kill()


def test_taken_port_is_one_clear_line_before_anything_else():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CommandError, match=rf"^Port {port} is taken\. .*$"):
            call_command("serve", port=port)


def test_export_ends_with_its_reader(site):
    command = f"{sys.executable} manage.py export_items - | head -1"
    result = subprocess.run(
        command, shell=True, cwd=ROOT, env=site.env, capture_output=True
    )
    assert result.stdout.startswith(b"id,collection,code,name")
    assert result.stderr == b""
