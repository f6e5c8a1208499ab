"""The example for those who keep a copy: killed under way, it ends equal."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from django.db import transaction
from django.db.models import Q
from django.test import Client

from items import catalogue
from items.models import Item, ItemChange
from resilient_site.models import ApiToken, Epoch, random_epoch
from tests.factories import TESTER, change_items, make_item, make_items
from tests.private_server import wait_for
from tests.running import ROOT
from tests.stub_server import Handler, serving

pytestmark = pytest.mark.once

POSITION = "SELECT next FROM position"
EXAMPLE = ROOT / "deploy" / "examples" / "keep_a_copy.py"


@pytest.fixture
def start(live_server, tmp_path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    running = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(EXAMPLE), live_server.url]
        with (tmp_path / "output").open("ab") as log:
            done = subprocess.Popen([*command, str(tmp_path / "copy")], stderr=log)
        running.append(done)
        return done

    yield start
    for process in running:
        kill(process)
    print((tmp_path / "output").read_text())  # shown when the test has failed


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def read(file: Path, query: str) -> list[tuple]:
    """Return the rows; none while there is no such table yet."""
    copied = sqlite3.connect(file, timeout=90)  # a busy follower holds it for long
    with closing(copied) as copy, suppress(sqlite3.OperationalError):
        return copy.execute(query).fetchall()
    return []


def wait_until_equal(file: Path, client: Client) -> None:
    exported = client.get("/api/v1/items/-/export?format=ndjson").getvalue()
    items = [json.loads(line) for line in exported.splitlines()]
    beside = {"id", "version", "created_at", "updated_at"}
    original = {i["id"]: {n: i[n] for n in i.keys() - beside} for i in items}
    query = "SELECT id, state FROM item WHERE state IS NOT NULL"
    wait_for(
        lambda: {pk: json.loads(state) for pk, state in read(file, query)} == original
    )


def test_copy_that_is_killed_or_has_a_wrong_position_ends_equal(
    transactional_db, live_server, client, start, tmp_path
):
    copy = tmp_path / "copy"
    make_items(300)
    process = start()
    wait_for(copy.exists)
    kill(process)  # before or in its export
    for number in range(2):
        process = start()
        known = wait_for(lambda: read(copy, POSITION))
        change_items(range(120 * number, 120 * (number + 1)))
        wait_for(lambda: read(copy, POSITION) != known)  # noqa: B023 - at once
        kill(process)
    process = start()
    wait_until_equal(copy, client)
    catalogue.update_item("item-00299", {"name": "Changed at the end"}, actor=TESTER)
    wait_until_equal(copy, client)

    kill(process)
    with closing(sqlite3.connect(copy, isolation_level=None)) as written:
        wrong = f"{live_server.url}/api/v1/changes?since=nonsense"
        written.execute("UPDATE position SET next = ?", [wrong])
        written.execute("INSERT INTO item VALUES ('never there', 99, '{}')")
    start()
    wait_until_equal(copy, client)


def test_copy_of_a_private_site_drops_what_is_purged(
    transactional_db, settings, live_server, editor, monkeypatch, start, tmp_path
):
    settings.PUBLIC_READ = False
    monkeypatch.setenv("TOKEN", ApiToken.objects.create(user=editor)[1])
    copy = tmp_path / "copy"
    make_item(id="bolt", name="Confidential")
    make_item(id="other")
    start()
    states = "SELECT id, state IS NOT NULL FROM item ORDER BY id"
    wait_for(lambda: read(copy, states) == [("bolt", 1), ("other", 1)])
    catalogue.purge_items(["bolt"], actor=TESTER)
    wait_for(lambda: read(copy, states) == [("bolt", 0), ("other", 1)])


def test_copy_starts_over_after_an_older_dump_was_put_back(
    transactional_db, live_server, client, start, tmp_path
):
    copy, count = tmp_path / "copy", "SELECT count(*) FROM item"
    make_items(300)
    start()
    wait_for(lambda: read(copy, count) == [(300,)])
    dump = list(Item.objects.filter(pk="item-00001"))
    catalogue.update_item("item-00001", {"name": "Lost"}, actor=TESTER)
    make_item(id="lost")
    wait_until_equal(copy, client)

    with transaction.atomic():
        lost = ItemChange.objects.filter(Q(item_id="lost") | Q(version=2))
        lost.delete()
        Item.objects.filter(pk="lost").delete()
        Item.objects.bulk_update(dump, ["name", "version"])
        Epoch.objects.update(value=random_epoch())
    # Of the version that the copy has already.
    catalogue.update_item("item-00001", {"name": "Kept"}, actor=TESTER)
    kept = "SELECT version FROM item WHERE state LIKE '%Kept%'"

    def has_started_over() -> bool:
        assert read(copy, count)[0][0] >= 300  # readers never see a part of it
        return read(copy, kept) == [(2,)]

    wait_for(has_started_over)
    wait_until_equal(copy, client)


class BrokenExport(Handler):
    """A site whose export breaks between two chunks, as when its database is lost."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if "export" in self.path:
            self.server.exports.append(self.path)
            line = b'{"id": "first", "version": 1, "name": "First"}\n'
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        else:
            self.end_headers()
            self.wfile.write(b'{"next": "http://127.0.0.1/none"}')
        self.close_connection = True


def test_export_that_breaks_off_is_no_copy(tmp_path):
    with serving(BrokenExport, exports=[]) as site:
        url = f"http://127.0.0.1:{site.server_port}"
        command = [sys.executable, str(EXAMPLE), url, str(tmp_path / "copy")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(site.exports) > 1)
            assert read(tmp_path / "copy", POSITION) == []
            assert read(tmp_path / "copy", "SELECT id FROM item") == []
        finally:
            kill(process)
