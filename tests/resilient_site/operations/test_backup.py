"""A backup made during writes holds every write that was acknowledged before it."""

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from rest_framework.test import APIClient

from items.models import Item, ItemChange
from resilient_site.edge.cache.invalidation import invalidations, mark, now
from resilient_site.models import ApiToken, Epoch
from resilient_site.operations import backup
from tests.factories import make_item
from tests.private_server import wait_for
from tests.running import Site
from tests.servers import Postgres

pytestmark = pytest.mark.django_db(transaction=True)
IS_POSTGRESQL = connection.vendor == "postgresql"


@pytest.fixture(autouse=True)
def client_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_POSTGRESQL:
        path = f"{Postgres.find().parent}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setenv("PATH", path)


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[Site]:
    """A site with a database of its own, which is empty."""
    folder = tmp_path / "restored"
    folder.mkdir()
    if not IS_POSTGRESQL:
        yield Site(folder)
        return
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS restored")
        cursor.execute("CREATE DATABASE restored")
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path="/restored").geturl()
    yield Site(folder, DATABASE_URL=url, SECRET_KEY="tests-of-a-site-" * 4, HTTPS="0")
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE restored WITH (FORCE)")


@contextmanager
def database_of(site: Site) -> Iterator[None]:
    """Let this process use the database of that site."""
    settings = connection.settings_dict
    ours = settings["NAME"]
    file = Path(site.env["DATA_DIR"]) / "site.sqlite3"
    connection.close()
    settings["NAME"] = "restored" if IS_POSTGRESQL else file
    try:
        yield
    finally:
        connection.close()
        settings["NAME"] = ours


def changes() -> list[tuple[object, ...]]:
    return list(ItemChange.objects.order_by("id").values_list("id", "item_id", "after"))


def test_acknowledged_writes_are_restored(editor, restored, tmp_path):
    _, token = ApiToken.objects.create(editor)
    first, last = tmp_path / "first.backup", tmp_path / "last.backup"
    acknowledged: list[str] = []
    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            acknowledged.append(make_item(name="=written").pk)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: len(acknowledged) > 20)
        before = set(acknowledged)
        call_command("backup", first)
        wait_for(lambda: len(acknowledged) > len(before) + 5)
    finally:
        ending.set()
        writer.join()
    call_command("backup", last)
    written, own_epoch = changes(), Epoch.current()

    # As operators do it: nothing that the command starts with needs the database.
    done = restored.manage("restore", "--yes", str(first))
    assert done.returncode == 0, done.stderr
    with database_of(restored):
        assert before <= set(Item.objects.values_list("pk", flat=True))
        cached, epoch = mark(now(), ["item"]), Epoch.current()
        call_command("restore", last, yes=True)
        assert not invalidations.is_current(cached)
        assert invalidations.voided_at > cached.at
        assert Epoch.current() not in (epoch, own_epoch)
        assert changes() == written

        # The site accepts the same tokens, and goes on counting.
        headers = {"Authorization": f"Token {token}"}
        answer = APIClient().post("/api/v1/items/", {"name": "x"}, headers=headers)
        assert answer.status_code == 201
        assert len({change_id for change_id, *_ in changes()}) == len(written) + 1


def test_old_data_come_with_a_new_epoch(restored, tmp_path):
    """Also where the command is killed before it is done."""
    call_command("backup", tmp_path / "old")
    own = Epoch.current()
    with database_of(restored):
        backup.restore(tmp_path / "old")
        assert Epoch.current() not in ("", own)


def test_restore_replaces_everything_or_nothing(restored, tmp_path):
    # Of random text, so that a file cut off at two thirds ends within the rows.
    Item.objects.bulk_create(
        Item(id=f"i{n}", name=secrets.token_hex(100)) for n in range(2000)
    )
    kept, broken, text = (tmp_path / name for name in ("kept", "broken", "text"))
    call_command("backup", kept)
    whole = kept.read_bytes()
    broken.write_bytes(whole[: len(whole) * 2 // 3])
    text.write_text("something else")

    def restore(path: Path = kept) -> None:
        call_command("restore", path, yes=True)

    def is_as_it_was() -> bool:
        return "later" in connection.introspection.table_names() and (
            Item.objects.count() == 2000
        )

    with database_of(restored):
        restore()
        with connection.cursor() as cursor:
            # As a later version of the site makes it.
            column = "item varchar(64) REFERENCES items_item (id)"
            cursor.execute(f"CREATE TABLE later ({column})")
            cursor.execute("INSERT INTO later VALUES ('i0')")
        for args in (
            ["backup", text],
            ["backup", tmp_path / "none" / "file"],
            ["restore", kept],  # without --yes
            ["restore", "--yes", tmp_path / "none"],
            ["restore", "--yes", text],
            ["restore", "--yes", broken],
        ):
            with pytest.raises(CommandError, match=".+"):
                call_command(*args)
            assert is_as_it_was(), args
        assert text.read_text() == "something else"
        assert not list(tmp_path.glob("**/.*"))
        if not IS_POSTGRESQL:
            # Who has it open would go on writing to the old file.
            path = connection.settings_dict["NAME"]
            with closing(sqlite3.connect(path)) as other:
                other.execute("SELECT count(*) FROM items_item").fetchone()
                with pytest.raises(CommandError, match="Stop the site first"):
                    restore()
            assert is_as_it_was()
        restore()
        assert "later" not in connection.introspection.table_names()
        assert Item.objects.count() == 2000
        if not IS_POSTGRESQL:
            connection.close()
            path.write_bytes(b"no database " * 1000)
            restore()
            assert Item.objects.count() == 2000


def test_backup_is_found_by_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("backup.db")) as made:
        made.execute("CREATE TABLE django_migrations (app, name)")
    backup._copy_sqlite(Path("backup.db"), tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_size
