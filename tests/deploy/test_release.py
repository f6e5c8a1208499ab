"""deploy/release.sh under load, on real nginx and gunicorns: no request fails."""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.deploy.conftest import Production
from tests.private_server import wait_for
from tests.running import ROOT, Site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

CODE = ("resilient_site", "items", "compute", "templates", "deploy", "manage.py")
OLD, NEW = "There is nothing at this address.", "There is nothing here any more."
# `systemctl restart UNIT` and `systemctl reload nginx`, without systemd.
SYSTEMCTL = """#!/bin/sh
case "$1 $2" in
"reload nginx") kill -HUP "$(cat {nginx}/nginx.pid)" ;;
restart*)
    number=${{2##*@}}
    pid={folder}/$number.pid
    if [ -e "$pid" ]; then kill -TERM "$(cat "$pid")"; fi
    while [ -e "$pid" ]; do sleep 0.1; done
    sh {folder}/$number.start
esac
"""


class Unit(Site):
    """A gunicorn that is started as its systemd unit starts it."""

    def __init__(self, number: int, folder: Path, code: Path, env: dict[str, str]):
        super().__init__(folder / f"data-{number}")
        self.pid_path = folder / f"{number}.pid"
        self.output_path.parent.mkdir()
        command = [sys.executable, "-m", "gunicorn", "-p", str(self.pid_path)]
        command += ["-c", str(code / "deploy" / "gunicorn.conf.py")]
        command += ["-b", f"{self.host}:{self.port}"]
        environment = [f"{name}={value}" for name, value in env.items()]
        start = shlex.join(["setsid", "env", "-i", *environment, *command])
        self.start_path = folder / f"{number}.start"
        self.start_path.write_text(
            f"cd {shlex.quote(str(code))}\n"
            f"{start} >>{shlex.quote(str(self.output_path))} 2>&1 </dev/null &\n"
        )

    def begin(self) -> None:
        subprocess.run(["sh", self.start_path], check=True)
        wait_for(self.answers)

    def end(self) -> None:
        if self.pid_path.exists():
            os.kill(int(self.pid_path.read_text()), 15)
            wait_for(lambda: not self.pid_path.exists())

    def is_old(self) -> bool:
        return self.get("/api/v1/nothing").json()["detail"] == OLD


def copy_code(to: Path) -> Path:
    to.mkdir()
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, to / name)
    return to


@pytest.fixture
def units(production: Production, tmp_path: Path) -> Iterator[tuple[Unit, Unit]]:
    """Two units that run what `current` links to, behind the nginx of production."""
    current = tmp_path / "current"
    current.symlink_to(copy_code(tmp_path / "first"))
    env = production.webs[0].env | {"PWD": str(current)}
    pair = Unit(1, tmp_path, current, env), Unit(2, tmp_path, current, env)
    try:
        for unit in pair:
            unit.begin()
        production.nginx.serve(*(unit.port for unit in pair)).restart()
        yield pair
    finally:
        for unit in pair:
            unit.end()
        production.nginx.serve(*(web.port for web in production.webs)).restart()


class Clients:
    """Readers and writers that keep their connections, and count the responses."""

    def __init__(self, production: Production) -> None:
        self.production = production
        self.seen: Counter[str] = Counter()
        self.ending = threading.Event()
        jobs = [self.read] * 4 + [self.write] * 3
        self.threads = [threading.Thread(target=job) for job in jobs]
        for thread in self.threads:
            thread.start()

    def end(self) -> Counter[str]:
        self.ending.set()
        for thread in self.threads:
            thread.join(30)
        return self.seen

    def read(self) -> None:
        # Each search is new, so nginx has no response to it.
        self._go_on(lambda: ("GET", f"/api/v1/items?search={uuid4()}", None))

    def write(self) -> None:
        self._go_on(lambda: ("POST", "/api/v1/items/", b'{"name": "Written"}'))

    def _go_on(self, next_request) -> None:
        port = self.production.nginx.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = self.production.signed_in | {"Content-Type": "application/json"}
        while not self.ending.wait(0.005):
            method, path, body = next_request()
            key = {"Idempotency-Key": str(uuid4())} if method == "POST" else {}
            # nginx closes idle connections when it is reloaded, maybe under a request
            # on its way: clients repeat what is safe to repeat (RFC 9110, 9.2.2).
            for is_last in (connection.sock is None, True):
                try:
                    connection.request(method, path, body, headers | key)
                    answer = connection.getresponse()
                    answer.read()
                    self.seen[f"{method} {answer.status}"] += 1
                    break
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    if is_last:
                        self.seen[f"{method} {error!r}"] += 1
                        break
        connection.close()


def release(
    production: Production,
    units: tuple[Unit, Unit],
    folder: Path,
    code: Path,
    wait_s=60,
) -> subprocess.CompletedProcess[str]:
    current = folder / "current"
    current.unlink()
    current.symlink_to(code)
    nginx = production.nginx
    systemctl = folder / "systemctl"
    systemctl.write_text(SYSTEMCTL.format(folder=folder, nginx=nginx.dir))
    systemctl.chmod(0o755)
    script = (ROOT / "deploy" / "release.sh").read_text()
    names = [f"resilient-site-web@{number}" for number in (1, 2)]
    ports = "".join(f"{n}) echo {unit.port};; " for n, unit in enumerate(units, 1))
    script = script.replace("800${unit##*@}", f"$(case ${{unit##*@}} in {ports}esac)")
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "UPSTREAM": str(nginx.config / "machine" / "upstream.conf"),
        "WAIT_S": str(wait_s),
    }
    return subprocess.run(
        ["sh", "-c", script, "release.sh", *names],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def test_release_fails_no_request(production, units, tmp_path: Path):
    assert [unit.is_old() for unit in units] == [True, True]
    broken = copy_code(tmp_path / "broken")
    (broken / "resilient_site" / "asgi.py").write_text("raise RuntimeError('broken')\n")
    second = copy_code(tmp_path / "second")
    errors = second / "resilient_site" / "errors.py"
    errors.write_text(errors.read_text().replace(OLD, NEW))

    clients = Clients(production)
    wait_for(lambda: clients.seen["GET 200"] > 100 and clients.seen["POST 201"] > 20)
    failed = release(production, units, tmp_path, broken, wait_s=3)
    assert failed.returncode == 1
    assert "resilient-site-web@1: does not answer" in failed.stderr
    assert units[1].is_old()
    done = release(production, units, tmp_path, second)
    assert done.returncode == 0, done.stderr
    assert [unit.is_old() for unit in units] == [False, False]
    seen = clients.end()
    print(dict(seen), done.stdout)
    assert set(seen) == {"GET 200", "POST 201"}
