"""nginx before two gunicorns, as in production: cache, files, faults, a release.

One file: all its tests share the servers. A test that breaks one of them leaves the
repair to the next one that needs it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from tests.deploy.clients import Clients
from tests.deploy.nginx import Door, Nginx
from tests.private_server import wait_for
from tests.running import ROOT, Answer, Site
from tests.servers import Postgres
from tests.services_plugin import _make as make
from tests.services_plugin import running

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

# Before anything refers to static files. Compressing all would take minutes.
COLLECT = """
from django.core.management import call_command
large = ["drf_spectacular*", "admin", "rest_framework"]
call_command("collectstatic", interactive=False, ignore_patterns=large, verbosity=0)
"""
# `systemctl restart UNIT` and `systemctl reload nginx`, without systemd.
SYSTEMCTL = """#!/bin/sh
case "$1 $2" in
"reload nginx") kill -HUP "$(cat {nginx}/nginx.pid)" ;;
restart*)
    pid={folder}/${{2##*@}}.pid
    if [ -e "$pid" ]; then kill -TERM "$(cat "$pid")"; fi
    while [ -e "$pid" ]; do sleep 0.1; done
    sh {folder}/${{2##*@}}.start
esac
"""
CODE = ("resilient_site", "items", "compute", "templates", "deploy", "manage.py")
OLD, NEW = "There is nothing at this address.", "There is nothing here any more."
ITEM = "/api/v1/items/country.DE"
CLIENTS = 4
# Of deploy/nginx/machine/upstream.conf.
FAIL_TIMEOUT_S = 3
# Headers that may be repeated.
LISTS = {"vary", "set-cookie"}


class Unit(Site):
    """A gunicorn, started as its systemd unit starts it: on what `current` links to."""

    def __init__(self, folder: Path, number: int, **env: str) -> None:
        super().__init__(folder / "data", **env)
        self.output_path = folder / f"{number}.output"
        self.pid_path = folder / f"{number}.pid"
        self.start_path = folder / f"{number}.start"
        current = folder / "current"
        environment = [
            f"{k}={v}" for k, v in (self.env | {"PWD": str(current)}).items()
        ]
        command = ["setsid", "env", "-i", *environment]
        command += [sys.executable, "-m", "gunicorn"]
        command += ["-p", str(self.pid_path), "-c", "deploy/gunicorn.conf.py"]
        command += ["-b", f"{self.host}:{self.port}"]
        self.start_path.write_text(
            f"cd {current}\n"
            f"{shlex.join(command)} >>{self.output_path} 2>&1 </dev/null &\n"
        )

    def begin(self) -> None:
        subprocess.run(["sh", self.start_path], check=True)

    def processes(self) -> list[psutil.Process]:
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            master = psutil.Process(int(self.pid_path.read_text()))
            return [master, *master.children()]
        return []

    def kill(self) -> None:
        super().kill()
        self.pid_path.unlink(missing_ok=True)

    def is_old(self) -> bool:
        return self.get("/api/v1/nothing").json()["detail"] == OLD


class Production:
    def __init__(self, folder: Path, closing: ExitStack) -> None:
        postgres = closing.enter_context(contextmanager(running)(Postgres))
        self.folder, self.nginx = folder, make(Nginx)
        self.upstream = self.nginx.config / "machine" / "upstream.conf"
        closing.callback(self.nginx.close)
        (folder / "current").symlink_to(ROOT)
        (folder / "data").mkdir()
        env = {
            "DATABASE_URL": postgres.url(),
            "SECRET_KEY": "production-" * 10,
            "HTTPS": "0",
            "ALLOWED_HOSTS": "127.0.0.1",
            "RATE_LIMITS": "off",
            "ADMISSION": "0",  # a busy machine would be overloaded
            "STATIC_ROOT": str(self.nginx.public / "static"),
            "DEADLINE_READ_S": "4",
            "HEARTBEAT_TIMEOUT_S": "3",
        }
        self.units = Unit(folder, 1, **env), Unit(folder, 2, **env)
        token, self.session = self.units[0].fill(COLLECT)
        self.signed_in = {"Authorization": f"Token {token}"}
        for unit in self.units:
            closing.callback(unit.kill)
        self.nginx.serve(*(unit.port for unit in self.units)).start()
        self.site = Door(self.nginx.port)

    def repair(self) -> None:
        for unit in self.units:
            for process in unit.processes():
                process.resume()
            if not unit.processes():
                unit.begin()
        for unit in self.units:
            wait_for(unit.answers)

    def write(self, method: str, path: str, body: Any) -> Answer:
        return self.site.request(method, path, body, self.signed_in)

    def release(self, wait_s: int) -> subprocess.CompletedProcess[str]:
        """Run deploy/release.sh for both units."""
        systemctl = self.folder / "systemctl"
        systemctl.write_text(SYSTEMCTL.format(folder=self.folder, nginx=self.nginx.dir))
        systemctl.chmod(0o755)
        script = (ROOT / "deploy" / "release.sh").read_text()
        ports = "".join(f"{n}) echo {u.port};; " for n, u in enumerate(self.units, 1))
        script = script.replace(
            "800${unit##*@}", f"$(case ${{unit##*@}} in {ports}esac)"
        )
        environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "UPSTREAM": str(self.upstream),
            "WAIT_S": str(wait_s),
        }
        names = [f"resilient-site-web@{number}" for number in (1, 2)]
        return subprocess.run(
            ["sh", "-c", script, "release.sh", *names],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with ExitStack() as closing:
        yield Production(tmp_path_factory.mktemp("production"), closing)


@pytest.fixture
def stack(production: Production) -> Production:
    """Both web processes answer, and nginx has cached nothing."""
    production.repair()
    production.nginx.stop()
    shutil.rmtree(production.nginx.dir / "cache", ignore_errors=True)
    production.nginx.start()
    return production


def cache_status(answer: Answer) -> str:
    return answer.headers["Cache-Status"].rpartition("nginx; ")[2]


def test_cache_serves_the_second_reader(stack: Production):
    first, second = stack.site.get(ITEM), stack.site.get(ITEM)
    assert (cache_status(first), cache_status(second)) == ("fwd=uri-miss", "hit")
    assert second.headers["Cache-Status"].startswith("resilient-site; ")
    assert first.body == second.body
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    etag = first.headers["ETag"]
    known = stack.site.get(ITEM, **{"If-None-Match": etag})
    assert (known.status, known.body, cache_status(known)) == (304, b"", "hit")
    head = stack.site.request("HEAD", ITEM)
    assert (head.status, head.body, cache_status(head)) == (200, b"", "hit")
    # Not a weak one, by which nothing could be changed.
    assert stack.site.get(ITEM, **{"Accept-Encoding": "gzip"}).headers["ETag"] == etag


def test_cache_keeps_no_response_of_an_authenticated_client(stack: Production):
    session = {"Cookie": f"sessionid={stack.session}"}
    for _ in range(2):
        page = stack.site.get("/items/", **session)
        assert b"ada" in page.body
        assert cache_status(page) == "fwd=bypass"
        assert cache_status(stack.site.get(ITEM, **stack.signed_in)) == "fwd=bypass"
    page = stack.site.get("/items/")
    assert cache_status(page) == "fwd=uri-miss"
    assert b"ada" not in page.body


def test_headers_are_not_repeated(stack: Production):
    marked = ITEM, "/items/", "/static/icon.svg", "/metrics", "/api/v1/none"
    for path in (*marked, *marked, "/livez"):
        names = Counter(map(str.lower, stack.site.get(path).headers))
        assert not {name for name, n in names.items() if n > 1} - LISTS, path
        if path in marked:
            assert {"x-request-id", "x-content-type-options"} <= names.keys(), path


def test_static_files_are_compressed_and_immutable(stack: Production):
    hashed = next(stack.nginx.public.glob("static/site.*.css")).name
    plain = stack.site.get(f"/static/{hashed}")
    packed = stack.site.get(f"/static/{hashed}", **{"Accept-Encoding": "gzip"})
    for answer in (plain, packed):
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    named = stack.site.get("/static/site.css")
    assert "immutable" not in named.headers["Cache-Control"]
    assert stack.site.get("/static/site.000000000000.css").status == 404


def test_release_fails_no_request(stack: Production):
    assert [unit.is_old() for unit in stack.units] == [True, True]
    new = stack.folder / "new"
    new.mkdir()
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, new / name)
    errors = new / "resilient_site" / "errors.py"
    errors.write_text(errors.read_text().replace(OLD, NEW))
    asgi = new / "resilient_site" / "asgi.py"
    asgi.write_text("raise RuntimeError('broken')\n")
    (stack.folder / "current").unlink()
    (stack.folder / "current").symlink_to(new)

    clients = Clients(stack.nginx.port, stack.signed_in)
    try:
        wait_for(lambda: clients.seen["GET 200"] > 20 and clients.seen["POST 201"] > 20)
        failed = stack.release(wait_s=3)
        assert failed.returncode == 1
        assert "resilient-site-web@1: does not answer" in failed.stderr
        assert stack.units[1].is_old()
        assert stack.upstream.read_text().count(" down;") == 1
        wait_for(lambda: "Error: broken" in stack.units[0].output())
        shutil.copy(ROOT / "resilient_site" / "asgi.py", asgi)
        done = stack.release(wait_s=90)
        assert done.returncode == 0, done.stderr
        assert [unit.is_old() for unit in stack.units] == [False, False]
        assert " down;" not in stack.upstream.read_text()
    finally:
        # Else the next tests would have processes that cannot start.
        shutil.copy(ROOT / "resilient_site" / "asgi.py", asgi)
        seen = clients.end()
    assert set(seen) == {"GET 200", "POST 201"}, seen


def test_reads_outlive_hung_killed_and_missing_web_processes(stack: Production):
    def search(_: int) -> int:
        return stack.site.get(f"/api/v1/items?search={uuid4()}").status

    def search_often() -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            assert set(pool.map(search, range(60))) == {200}

    def timed_out() -> int:
        """Return how often nginx has waited for a process in vain."""
        log = (stack.nginx.dir / "error.log").read_text()
        return log.count("upstream timed out")

    read = {path: stack.site.get(path).body for path in (ITEM, "/items/")}
    # All of one unit: nginx leaves one that has failed alone for a while.
    hung = stack.units[0].processes()[1:]
    for worker in hung:
        worker.suspend()
    search_often()
    # It is killed before nginx, which waits 75 s for a write, gives up.
    _, left = psutil.wait_procs(hung, 60)
    assert left == []
    stack.repair()
    for process in stack.units[0].processes():
        process.suspend()
    before, began = timed_out(), time.monotonic()
    # Until nginx, which leaves one alone that has just failed, tries the process.
    wait_for(lambda: search_often() or timed_out() > before)
    # nginx waits 5 s: for the first ones, and for one that tries the process again.
    trials = (time.monotonic() - began) / FAIL_TIMEOUT_S
    assert 0 < timed_out() - before <= CLIENTS + trials
    stack.units[0].kill()
    search_often()
    stack.units[1].kill()
    for path, body in read.items():
        assert stack.site.get(path).body == body
    # Fresh for 10 seconds by its Cache-Control.
    wait_for(lambda: cache_status(stack.site.get(ITEM)) == "hit; detail=stale")
    assert stack.site.get("/items/").body == read["/items/"]
    other = stack.site.get("/api/v1/items/country.FR")
    assert other.status == 502
    assert other.headers["Content-Type"] == "application/problem+json"
    assert other.headers["Retry-After"] == "5"
    assert other.json()["request_id"] == other.headers["X-Request-ID"]
    page = stack.site.get("/items/country.FR/")
    assert page.status == 502
    assert b"<h1>Bad Gateway</h1>" in page.body
