"""The change feed of one collection."""

from contextlib import aclosing
from functools import partial

import pytest
from asgiref.sync import sync_to_async

from items import catalogue
from items.changes import feed, stream
from items.changes.stream import running_stream
from items.collections import editing
from items.models import ItemChange
from resilient_site.edge.streaming import Wait
from resilient_site.models import Epoch
from resilient_site.resilience import poller
from tests.event_streams import in_asyncio, join_pollers
from tests.factories import TESTER, make_item
from tests.items.test_change_stream import ids, place

pytestmark = pytest.mark.django_db(transaction=True)

OF_BOLTS = "/api/v1/changes?collection=bolts"


@pytest.fixture(autouse=True)
def bolts(transactional_db) -> None:
    editing.create_collection({"key": "bolts", "name": "Bolts"})


bolt = partial(make_item, collection="bolts")
update = partial(catalogue.update_item, actor=TESTER)


def pages(client, url: str = OF_BOLTS) -> list[list[tuple[str, int]]]:
    """Return the changes of each page, up to the first one at the end."""
    found = []
    while True:
        page = client.get(url).json()
        found.append([(c["item_id"], c["version"]) for c in page["results"]])
        if page["next"] == url:
            return found
        url = page["next"]


def test_changes_into_and_out_of_a_collection_are_delivered(anonymous_api):
    make_item(id="x")
    bolt(code="a")
    make_item(id="y")
    update("x", {"collection": "bolts"})
    update("x", {"name": "In it"})
    update("x", {"collection": "general"})
    update("x", {"name": "Out again"})
    catalogue.delete_item("bolts.a", actor=TESTER)
    expected = [("bolts.a", 1), ("x", 2), ("x", 3), ("x", 4), ("bolts.a", 2)]
    assert pages(anonymous_api)[0] == expected
    results = anonymous_api.get(OF_BOLTS).json()["results"]
    moves = [(c["before"], c["after"]) for c in results if c["item_id"] == "x"]
    found = [[state["collection"] for state in move] for move in moves]
    assert found == [["general", "bolts"], ["bolts", "bolts"], ["bolts", "general"]]


def test_states_of_an_earlier_release_are_of_general(anonymous_api):
    make_item(id="x")
    change = ItemChange.objects.get()
    del change.after["collection"]
    change.save()
    url = "/api/v1/changes?collection=general"
    assert pages(anonymous_api, url)[0] == [("x", 1)]
    assert pages(anonymous_api)[0] == []
    assert feed.keys_of(change) == {"general"}


def test_entries_whose_contents_were_removed_are_delivered(anonymous_api):
    make_item(id="x")
    catalogue.purge_items(["x"], actor=TESTER)
    assert pages(anonymous_api)[0] == [("x", 1), ("x", 2)]


def test_position_advances_although_nothing_matches(anonymous_api, monkeypatch):
    monkeypatch.setattr(feed, "SCANNED_MAX", 2)
    for number in range(5):
        make_item(id=f"x{number}")
    bolt(code="a")
    bolt(code="b")
    found = pages(anonymous_api, f"{OF_BOLTS}&page_size=1")
    assert [page for page in found if page] == [[("bolts.a", 1)], [("bolts.b", 1)]]
    headers = {"Prefer": "wait=30"}
    early = anonymous_api.get(OF_BOLTS, headers=headers)
    assert early.json()["results"] == []
    assert not hasattr(early, "continuation")  # there is more to look at
    at_end = anonymous_api.get(f"{OF_BOLTS}&since=now", headers=headers)
    assert isinstance(at_end.continuation, Wait)
    assert "collection=bolts" in at_end.continuation.then


@pytest.mark.once
@pytest.mark.parametrize("path", ["changes", "changes/events"])
def test_unknown_collection_is_named(anonymous_api, path):
    response = anonymous_api.get(f"/api/v1/{path}?collection=nix")
    assert response.status_code == 400
    assert "There is no collection “nix”." in response.json()["errors"]["collection"]


@pytest.mark.once
def test_changes_are_of_one_collection_at_a_time(anonymous_api):
    response = anonymous_api.get(f"{OF_BOLTS}&collection=general")
    assert (response.status_code, [*response.json()["errors"]]) == (400, ["collection"])
    assert anonymous_api.get(f"{OF_BOLTS}&collection=bolts").status_code == 200


def test_stream_begins_with_the_changes_of_the_collection(anonymous_api, monkeypatch):
    monkeypatch.setattr(feed, "SCANNED_MAX", 2)
    bolt(code="a")
    for number in range(4):
        make_item(id=f"x{number}")
    url = "/api/v1/changes/events?collection=bolts"
    first = anonymous_api.get(url).content
    assert ids(first) == ["bolts.a"]
    # The position is behind what does not match: the client comes back at once.
    assert b"retry: 100\n" in first
    second = anonymous_api.get(url, headers={"Last-Event-ID": place(first)}).content
    assert ids(second) == []
    assert place(second) != place(first)


@pytest.mark.once
@in_asyncio
async def test_stream_and_wait_skip_changes_of_other_collections(monkeypatch):
    monkeypatch.setattr(stream, "POLL_S", 0.01)
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.0)
    monkeypatch.setattr(poller, "LINGER_S", 0.02)
    epoch = await sync_to_async(Epoch.current)()
    start = await sync_to_async(feed.end)()
    async with aclosing(running_stream().events(b"", epoch, start, "bolts")) as events:
        await anext(events)
        await sync_to_async(make_item)(id="other")
        end = feed.cursor_of(epoch, await sync_to_async(feed.end)())
        # Its position is sent in place of it, so that it is not read again.
        while (frame := await anext(events)) != f"id: {end}\n\n".encode():
            assert ids(frame) == []
        await sync_to_async(bolt)(code="a")
        while not ids(frame := await anext(events)):
            pass
        assert ids(frame) == ["bolts.a"]
    await running_stream().wait_for_change(epoch, start, "bolts")
    await sync_to_async(join_pollers)("changes")
