"""The client that one copies: it goes on while the site is down, and loses no write."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from django.db.models import Q

from deploy.examples import resilient_client
from deploy.examples.resilient_client import Client, Rejected, Unavailable
from items import catalogue
from items.collections import editing
from items.models import Item, ItemChange
from resilient_site.models import ApiToken, Epoch, random_epoch
from tests.factories import TESTER, change_items, make_item, make_items
from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import Site, admin_token
from tests.stub_server import Handler, serving

pytestmark = [pytest.mark.once, pytest.mark.django_db(transaction=True)]

EXAMPLE = resilient_client.__file__
LINKS = [
    {"relation": "exactMatch", "target": "bolts.a"},
    {"relation": "broadMatch", "target": "7"},
]


@pytest.fixture
def network(live_server) -> Iterator[Proxy]:
    """The way to the site, which can be cut off."""
    with closing(Proxy(int(live_server.url.rpartition(":")[2]))) as network:
        yield network


@pytest.fixture(autouse=True)
def short_waits(monkeypatch) -> None:
    monkeypatch.setattr(resilient_client, "ATTEMPTS_WAIT_S", 0.2)


@pytest.fixture
def token(editor) -> str:
    return ApiToken.objects.create(user=editor)[1]


@pytest.fixture
def client_of(network, tmp_path, token) -> Client:
    site = f"http://127.0.0.1:{network.port}"
    return Client(site, str(tmp_path / "copy"), token=token)


def catch_up(client: Client) -> None:
    client.update(wait_s=0)
    client.update(wait_s=0)


@pytest.fixture
def codes(db) -> list[str]:
    """Items of every kind that a lookup tells apart."""
    for key in "bolts", "nuts":
        editing.create_collection({"key": key, "name": key})
    labels = {"de": "Schraube", "pt-BR": "Parafuso"}
    make_item(collection="bolts", code="a", labels=labels, status="retired",
              valid_to="2020-12-31")  # fmt: skip
    make_item(collection="bolts", code="b", valid_from="2030-01-01")
    make_item(collection="bolts", code="c/Ł", status="draft", links=LINKS[:1])
    make_item(id="7", collection="bolts", code="7", status="deprecated")
    make_item(collection="nuts", code="n", links=LINKS)
    for pk, successor in {"bolts.a": "bolts.b", "bolts.b": "7"}.items():
        catalogue.update_item(pk, {"replaced_by": successor}, actor=TESTER)
    return ["a", "b", "c/Ł", " c/L\u0301 ", "7", "nix", ""]


def test_lookup_is_that_of_the_site(api, client_of, codes):
    catch_up(client_of)
    languages = ["", "de-AT", "PT-br", "fr", "de-x-a"]
    for language, day in product(languages, ["", "2019-01-01", "2035-01-01"]):
        body = {"codes": codes} | ({"language": language} if language else {})
        body |= {"valid_on": day} if day else {}
        url = "/api/v1/collections/bolts/lookup"
        expected = api.post(url, body, format="json").json()["results"]
        found = [client_of.lookup("bolts", code, language, day) for code in codes]
        assert found == expected


@pytest.mark.parametrize(("key", "to"), [("bolts", "nuts"), ("nuts", "bolts")])
def test_translation_is_that_of_the_site(api, client_of, codes, key, to):
    catch_up(client_of)
    codes = [*codes, "n"]
    url, body = f"/api/v1/collections/{key}/translate", {"codes": codes, "to": to}
    expected = api.post(url, body, format="json").json()["results"]
    assert [client_of.translate(key, code, to) for code in codes] == expected
    catalogue.update_item("nuts.n", {"links": []}, actor=TESTER)
    catalogue.delete_item("nuts.n", actor=TESTER)
    catch_up(client_of)
    expected = api.post(url, body, format="json").json()["results"]
    assert [client_of.translate(key, code, to) for code in codes] == expected


def test_copy_answers_while_the_site_is_down(client_of, codes, network):
    catch_up(client_of)
    network.refuse()
    with pytest.raises(Unavailable):
        client_of.update()
    assert client_of.lookup("bolts", "7")["found"]
    assert client_of.translate("nuts", "n", "bolts")["mappings"]


def test_writes_wait_for_the_site_and_are_sent_in_order(client_of, network):
    network.refuse()
    client_of.write("POST", "items", {"id": "a", "name": "A"})
    client_of.write("POST", "items", {"id": "a", "name": "Taken"})
    client_of.write("PATCH", "items/a", {"name": "B"})
    client_of.write("DELETE", "items/nix")
    with pytest.raises(Unavailable):
        client_of.send()
    assert {write["status"] for write in client_of.writes()} == {None}
    network.accept()
    assert client_of.send() == 4
    found = list(client_of.writes())
    assert [write["status"] for write in found] == [201, 400, 200, 404]
    codes = [write["answer"].get("code") for write in found]
    assert codes[1::2] == ["item_exists", "item_not_found"]
    assert client_of.send() == 0
    assert Item.objects.get().name == "B"
    assert ItemChange.objects.count() == 2


def test_write_whose_answer_was_lost_is_carried_out_once(client_of, api):
    client_of.write("POST", "items", {"name": "Without an id"})
    [row] = rows(client_of, "SELECT key, body FROM write")
    api.post(
        "/api/v1/items", json.loads(row[1]), format="json",
        headers={"Idempotency-Key": row[0]},
    )  # fmt: skip
    client_of.send()
    [write] = client_of.writes()
    assert (write["status"], write["answer"]["id"]) == (201, Item.objects.get().pk)


def test_rejected_read_is_no_reason_to_wait(client_of, settings):
    settings.PUBLIC_READ = False
    client_of.token = "wrong"
    with pytest.raises(Rejected) as rejected:
        client_of.update()
    assert rejected.value.status == 401


def test_wait_is_random_and_at_least_what_the_site_asks_for(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(resilient_client.time, "sleep", waited.append)
    backoff = resilient_client.Backoff()
    for after in (0, 5, 0):
        backoff.wait(Unavailable("busy", after))
    assert 0 <= waited[0] <= 0.2
    assert 5 <= waited[1] <= 5.2


def rows(client: Client, query: str) -> list[tuple]:
    with closing(sqlite3.connect(client.file, timeout=90)) as copy:
        return copy.execute(query).fetchall()


def states(client: Client) -> dict[str, int]:
    return dict(rows(client, "SELECT id, version FROM item WHERE state IS NOT NULL"))


def is_equal(client: Client) -> bool:
    return states(client) == dict(Item.objects.values_list("pk", "version"))


@pytest.fixture
def start(client_of, token) -> Iterator:
    running = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, EXAMPLE, client_of.api.removesuffix("/api/v1/")]
        env = os.environ | {"TOKEN": token}
        with Path(f"{client_of.file}.log").open("ab") as log:
            running.append(
                subprocess.Popen(
                    [*command, client_of.file, "follow"], stderr=log, env=env
                )
            )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
    print(Path(f"{client_of.file}.log").read_text())


def test_follower_that_is_killed_and_cut_off_ends_equal(client_of, network, start):
    make_items(100)
    process = start()
    wait_for(lambda: states(client_of))
    change_items(range(60))
    network.refuse()
    client_of.write("POST", "items", {"id": "queued", "name": "Queued"})
    process.send_signal(signal.SIGKILL)
    process.wait()
    change_items(range(60, 120))
    start()
    network.accept()
    wait_for(lambda: Item.objects.filter(pk="queued").exists())
    wait_for(lambda: is_equal(client_of))


def test_follower_starts_over_after_an_older_dump_was_put_back(client_of, start):
    make_items(3)
    start()
    wait_for(lambda: len(states(client_of)) == 3)
    catalogue.update_item("item-00001", {"name": "Lost"}, actor=TESTER)
    wait_for(lambda: states(client_of)["item-00001"] == 2)
    lost = ItemChange.objects.filter(Q(version=2))
    lost.delete()
    Item.objects.filter(pk="item-00001").update(name="Old", version=1)
    Epoch.objects.update(value=random_epoch())
    wait_for(lambda: is_equal(client_of))


def test_copy_of_one_collection_has_what_moves_into_it_alone(client_of, codes):
    client_of.collection = "bolts"
    catch_up(client_of)
    draft = Item.objects.get(status="draft").pk
    bolts = {"bolts.a": 2, "bolts.b": 2, draft: 1, "7": 1}
    assert states(client_of) == bolts
    make_item(id="x")
    make_item(id="y")
    values = {"links": [], "collection": "bolts"}
    catalogue.update_item("nuts.n", values, actor=TESTER)
    catalogue.update_item(draft, {"collection": "nuts"}, actor=TESTER)
    catch_up(client_of)
    assert states(client_of).keys() == bolts.keys() - {draft} | {"nuts.n"}


@pytest.mark.parametrize("key", ["nuts", ""])
def test_copy_of_another_collection_is_made_anew(client_of, codes, key):
    client_of.collection = "bolts"
    catch_up(client_of)
    client_of.collection = key
    catch_up(client_of)
    items = Item.objects.filter(collection=key) if key else Item.objects.all()
    assert states(client_of).keys() == set(items.values_list("pk", flat=True))


def command(client: Client, *given: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, EXAMPLE, client.api.removesuffix("/api/v1/"), client.file,
         *given],
        capture_output=True, text=True, env=os.environ | {"TOKEN": client.token},
    )  # fmt: skip
    return done.stdout, done.stderr


def test_commands_are_those_of_the_class(client_of, codes, network):
    catch_up(client_of)
    written, _ = command(client_of, "write", "POST", "items", '{"name": "A"}')
    assert json.loads(written)["status"] == 201
    assert "not JSON" in command(client_of, "write", "POST", "items", "{name}")[1]
    found, _ = command(client_of, "lookup", "bolts", "a", "de", "2019-01-01")
    assert json.loads(found)["label"] == "Schraube"
    found, _ = command(client_of, "translate", "nuts", "n", "bolts")
    assert len(json.loads(found)["mappings"]) == 2
    network.refuse()
    _, error = command(client_of, "write", "DELETE", "items/7")
    assert "Write 2 is queued" in error
    listed, _ = command(client_of, "writes")
    assert [json.loads(line)["status"] for line in listed.splitlines()] == [201, None]
    assert "resilient_client.py SITE FILE" in command(client_of, "nix")[1]


def test_site_is_killed_and_an_older_backup_restored_under_it(tmp_path):
    site, backup = Site(tmp_path / "site", RATE_LIMITS="off"), str(tmp_path / "backup")

    def create(code: str) -> None:
        client.write("POST", "items", {"id": code, "name": code})

    def is_found(code: str) -> bool:
        return client.lookup("general", code)["found"]

    try:
        site.start_web()
        url = f"http://{site.host}:{site.port}"
        client = Client(url, str(tmp_path / "copy"), token=admin_token())
        create("kept")
        assert client.send() == 1
        assert site.manage("backup", backup).returncode == 0
        create("lost")
        assert client.send() == 1
        catch_up(client)
        site.kill()
        create("queued")
        with pytest.raises(Unavailable):
            client.send()
        assert is_found("lost")
        assert site.manage("restore", "--yes", backup).returncode == 0
        site.start_web()
        assert client.send() == 1
        with pytest.raises(Rejected):  # as `follow` does
            client.update(wait_s=0)
        client.update(starts_over=True)
        assert [is_found(c) for c in ("kept", "lost", "queued")] == [True, False, True]
    finally:
        site.stop()


class Elsewhere(Handler):
    """A proxy that sends every request to another address of its own."""

    def do_POST(self) -> None:
        self.server.seen.append(self.path)
        self.send_response(301)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST


def test_redirected_write_stays_queued_and_its_token_at_home(tmp_path):
    with serving(Elsewhere, seen=[]) as site:
        url = f"http://127.0.0.1:{site.server_port}"
        client = Client(url, str(tmp_path / "copy"), token="secret")
        client.write("POST", "items", {"id": "a", "name": "A"})
        with pytest.raises(Unavailable, match="301"):
            client.send()
    assert site.seen == ["/api/v1/items"]
    assert [one["status"] for one in client.writes()] == [None]
