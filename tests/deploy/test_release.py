"""A release under load, through nginx: nobody notices."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.deploy.conftest import Production
from tests.private_server import has_ended, wait_for
from tests.running import ROOT, Site

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

CODE = ("resilient_site", "items", "compute", "templates", "deploy", "manage.py")
SAID, SAYS = "There is nothing at this address.", "There is nothing here any more."
# What systemd does on `systemctl reload` and tells on `systemctl show`.
SYSTEMCTL = """#!/bin/sh
unit=$(eval echo \\$$#)
pid=$(cat "{folder}/$unit")
case $1 in
reload) kill -USR2 "$pid" ;;
show) echo "$pid" ;;
esac
"""


class Unit(Site):
    """A gunicorn as its unit starts it, with systemd's end of the notifications."""

    def __init__(
        self, folder: Path, name: str, code: Path, env: dict[str, str]
    ) -> None:
        super().__init__(folder / f"data-{name}")
        self.name, self.code, self.folder = name, code, folder
        self.env = {**env, "PORT": str(self.port), "PWD": str(code)}
        self.env["NOTIFY_SOCKET"] = str(folder / f"{name}.notify")
        self.env["DJANGO_SETTINGS_MODULE"] = "resilient_site.settings"
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(self.env["NOTIFY_SOCKET"])

    def begin(self) -> None:
        self.output_path.parent.mkdir(exist_ok=True)
        config = str(self.code / "deploy" / "gunicorn.conf.py")
        address = f"{self.host}:{self.port}"
        with self.output_path.open("ab") as output:
            command = [sys.executable, "-m", "gunicorn", "-c", config, "-b", address]
            self.run(command, cwd=self.code, stdout=output, stderr=output)
        self.note(self.process.pid)
        self.listening = threading.Thread(target=self._listen)
        self.listening.start()

    def note(self, pid: int) -> None:
        (self.folder / self.name).write_text(str(pid))

    def main(self) -> psutil.Process:
        return psutil.Process(int((self.folder / self.name).read_text()))

    def _listen(self) -> None:
        while told := self.systemd.recv(1024).decode():
            for line in told.splitlines():
                if line.startswith("MAINPID="):
                    self.note(int(line.removeprefix("MAINPID=")))

    def close(self) -> None:
        self.kill()
        self.systemd.sendto(b"", self.env["NOTIFY_SOCKET"])
        self.listening.join()
        self.systemd.close()


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
    env = production.webs[0].env
    pair = Unit(tmp_path, "web@1", current, env), Unit(tmp_path, "web@2", current, env)
    try:
        for unit in pair:
            unit.begin()
        production.nginx.serve(*(unit.port for unit in pair)).restart()
        yield pair
    finally:
        for unit in pair:
            unit.close()
        production.nginx.serve(*(web.port for web in production.webs)).restart()


class Clients:
    """Readers and writers that keep their connections, and note every answer."""

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
        # Each asks what nobody has asked before: nginx knows nothing of it.
        self._go_on(lambda: ("GET", f"/api/v1/items?search={uuid4()}", None))

    def write(self) -> None:
        self._go_on(lambda: ("POST", "/api/v1/items/", b'{"name": "Written"}'))

    def _go_on(self, next_request) -> None:
        port = self.production.nginx.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = self.production.signed_in | {"Content-Type": "application/json"}
        while not self.ending.wait(0.005):
            method, path, body = next_request()
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                self.seen[f"{method} {answer.status}"] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[f"{method} {error!r}"] += 1
                connection.close()
        connection.close()


def release(folder: Path, wait_s: str = "60") -> subprocess.CompletedProcess[str]:
    (folder / "systemctl").write_text(SYSTEMCTL.format(folder=folder))
    (folder / "systemctl").chmod(0o755)
    return subprocess.run(
        ["sh", ROOT / "deploy" / "release.sh", "web@1", "web@2"],
        env={"WAIT_S": wait_s, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def says(unit: Unit) -> str:
    return unit.get("/api/v1/nothing").json()["detail"]


def test_a_release_fails_no_request(production, units, tmp_path: Path):
    first = [unit.main() for unit in units]
    assert [says(unit) for unit in units] == [SAID, SAID]
    second = copy_code(tmp_path / "second")
    errors = second / "resilient_site" / "errors.py"
    errors.write_text(errors.read_text().replace(SAID, SAYS))
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(second)

    clients = Clients(production)
    wait_for(lambda: clients.seen["GET 200"] > 100 and clients.seen["POST 201"] > 20)
    done = release(tmp_path)
    wait_for(lambda: all(map(has_ended, first)))
    seen = clients.end()
    print(dict(seen), done.stdout)
    assert done.returncode == 0, done.stderr
    assert [says(unit) for unit in units] == [SAYS, SAYS]
    assert set(seen) == {"GET 200", "POST 201"}


def test_a_release_that_does_not_start_leaves_the_old_one(units, tmp_path: Path):
    first = [unit.main() for unit in units]
    broken = copy_code(tmp_path / "broken")
    (broken / "resilient_site" / "asgi.py").write_text("raise RuntimeError('broken')\n")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(broken)
    done = release(tmp_path, "12")
    assert done.returncode == 1
    assert "web@1" in done.stderr
    assert [unit.main() for unit in units] == first
    assert [says(unit) for unit in units] == [SAID, SAID]
