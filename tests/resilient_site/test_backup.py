"""A backup, made while people write, holds what they were told is done."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.private_server import wait_for
from tests.running import Site
from tests.servers import Postgres
from tests.services_plugin import running

pytestmark = pytest.mark.once

EDITOR = """
from django.contrib.auth.models import Group, User
from items.apps import EDITORS
User.objects.create_user("edith").groups.add(Group.objects.get(name=EDITORS))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    yield from running(Postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
def sites(request, tmp_path) -> Iterator[tuple[Site, Site]]:
    """Two sites with databases of their own, the second one empty."""
    made = []
    for name in ("old", "new"):
        folder = tmp_path / name
        folder.mkdir()
        env = {"RATE_LIMITS": "off", "SECRET_KEY": "backup" * 10, "HTTPS": "0"}
        if request.param == "postgresql":
            server = request.getfixturevalue("server")
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {name}")
                connection.execute(f"CREATE DATABASE {name}")
            env["DATABASE_URL"] = server.url(name)
            env["PATH"] = f"{server.bin}:{os.environ['PATH']}"
        made.append(Site(folder, **env))
    old, new = made
    assert old.manage("migrate").returncode == 0
    yield old, new
    old.stop()


class Writer:
    """Creates items one by one, and notes what was acknowledged."""

    def __init__(self, site: Site, token: str) -> None:
        self.acknowledged: list[str] = []
        self._site, self._token = site, token
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        headers = {"Authorization": f"Token {self._token}"}
        while not self._ending.is_set():
            item = {"id": f"w{len(self.acknowledged)}", "name": "=written"}
            answer = self._site.request("POST", "/api/v1/items/", item, headers)
            assert answer.status == 201
            self.acknowledged.append(item["id"])

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


def exported(site: Site) -> str:
    done = site.manage("export_items", "-")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_acknowledged_is_restored(sites, tmp_path: Path):
    old, new = sites
    assert old.manage("shell", "-c", EDITOR).returncode == 0
    token = old.manage("create_token", "edith").stdout.strip()
    old.start("--no-compute")
    writer = Writer(old, token)
    wait_for(lambda: len(writer.acknowledged) > 20)
    before = list(writer.acknowledged)
    first, last = tmp_path / "first.backup", tmp_path / "last.backup"
    done = old.manage("backup", str(first))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: len(writer.acknowledged) > len(before) + 5)
    writer.end()
    assert old.manage("backup", str(last)).returncode == 0

    done = new.manage("restore", "--yes", str(first))
    assert done.returncode == 0, done.stderr
    restored = exported(new)
    assert all(f"{item_id}," in restored for item_id in before)
    done = new.manage("restore", "--yes", str(last))
    assert done.returncode == 0, done.stderr
    assert exported(new) == exported(old)

    # The site works on it: it signs the same people in, and goes on counting.
    new.start("--no-compute")
    headers = {"Authorization": f"Token {token}"}
    answer = new.request("POST", "/api/v1/items/", {"name": "after"}, headers)
    assert answer.status == 201
    changes = new.get("/api/v1/changes?page_size=100").json()["results"]
    assert len({change["id"] for change in changes}) == len(changes)
    new.stop()


def test_what_cannot_be_done_changes_nothing(sites, tmp_path: Path):
    old, _ = sites
    there = tmp_path / "there"
    there.write_text("something else")
    before = exported(old)
    for command in (
        ["backup", str(there)],
        ["backup", str(tmp_path / "none" / "file")],
        ["restore", str(there)],
        ["restore", "--yes", str(there)],
        ["restore", "--yes", str(tmp_path / "none")],
    ):
        done = old.manage(*command)
        assert done.returncode == 1, command
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    assert there.read_text() == "something else"
    assert exported(old) == before
    assert not list(tmp_path.glob(".*"))
