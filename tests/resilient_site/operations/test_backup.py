"""A backup made during writes holds every write that was acknowledged before it."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.private_server import wait_for
from tests.running import MAKE_EDITOR, Site
from tests.servers import Postgres
from tests.services_plugin import running

pytestmark = pytest.mark.once

MAKE_TOKEN = f"""
from django.core.management import call_command
{MAKE_EDITOR}
call_command("create_token", "edith")
"""
# In one process, as each takes seconds to start. It prints what it finds.
PRELUDE = """
import json
import sqlite3
from pathlib import Path
from django.db import connection
from items.models import Item
from resilient_site.operations.backup import BackupFailed, backup, restore

Item.objects.bulk_create(Item(id=f"i{{n}}", name="x" * 200) for n in range(2000))
kept, broken = Path("{folder}/kept"), Path("{folder}/broken")
backup(kept)
whole = kept.read_bytes()
broken.write_bytes(whole[: len(whole) * 2 // 3])
def find(path):
    try:
        restore(path)
    except BackupFailed as error:
        said = str(error)
    else:
        said = "done"
    is_later = "later" in connection.introspection.table_names()
    print(json.dumps([Item.objects.count() == 2000, is_later, said]))
    connection.close()
"""
FAIL = """
from django.core.management import CommandError, call_command
from items.models import Item
Item.objects.create(id="kept", name="x")
for command in {failing}:
    try:
        call_command(*command)
    except CommandError as error:
        assert str(error)
    else:
        raise AssertionError(command)
    assert Item.objects.get().pk == "kept"
"""
AFTER_AN_UPGRADE = """
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE later (item varchar(64) REFERENCES items_item (id))")
    cursor.execute("INSERT INTO later VALUES ('i0')")
find(broken)
find(kept)
"""
SQLITE = """
find(broken)
path = connection.settings_dict["NAME"]
other = sqlite3.connect(path)
other.execute("SELECT count(*) FROM items_item").fetchone()
find(kept)
other.close()
find(kept)
path.write_bytes(b"no database " * 1000)
find(kept)
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


def test_acknowledged_writes_are_restored(sites, tmp_path: Path):
    old, new = sites
    token = old.manage("shell", "-v0", "-c", MAKE_TOKEN).stdout.strip()
    old.start_web()
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
    new.start_web()
    headers = {"Authorization": f"Token {token}"}
    answer = new.request("POST", "/api/v1/items/", {"name": "after"}, headers)
    assert answer.status == 201
    changes = new.get("/api/v1/changes?page_size=100").json()["results"]
    assert len({change["id"] for change in changes}) == len(changes)
    new.stop()


def test_failed_backup_or_restore_changes_nothing(sites, tmp_path: Path):
    old, _ = sites
    there = tmp_path / "there"
    there.write_text("something else")
    failing = [
        ["backup", str(there)],
        ["backup", str(tmp_path / "none" / "file")],
        ["restore", str(there)],
        ["restore", "--yes", str(there)],
        ["restore", "--yes", str(tmp_path / "none")],
    ]
    done = old.manage("shell", "-v0", "-c", FAIL.format(failing=failing))
    assert done.returncode == 0, done.stderr
    assert there.read_text() == "something else"
    assert not list(tmp_path.glob(".*"))


def found(site: Site, script: str, folder: Path) -> list[list[Any]]:
    prelude = PRELUDE.format(folder=folder)
    done = site.manage("shell", "-v0", "-c", prelude + script)
    assert done.returncode == 0, done.stderr
    return [json.loads(x) for x in done.stdout.splitlines() if x.startswith("[")]


@pytest.mark.parametrize("sites", ["postgresql"], indirect=True)
def test_restore_drops_later_tables_and_a_broken_file_changes_nothing(
    sites, tmp_path: Path
):
    broken, whole = found(sites[0], AFTER_AN_UPGRADE, tmp_path)
    assert broken[:2] == [True, True]
    assert broken[2] != "done"
    assert whole == [True, False, "done"]


@pytest.mark.parametrize("sites", ["sqlite"], indirect=True)
def test_database_in_use_is_not_replaced_and_a_damaged_one_is(sites, tmp_path: Path):
    """A process that has it open would go on writing to the old file."""
    broken, used, unused, damaged = found(sites[0], SQLITE, tmp_path)
    assert broken[0]
    assert "malformed" in broken[2]
    assert used[0]
    assert "Stop the site first" in used[2]
    assert unused == damaged == [True, False, "done"]
