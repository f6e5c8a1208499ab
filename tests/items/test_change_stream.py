"""Following changes: one reader for all, nothing missed, nothing without bound."""

import asyncio
import re
import threading
from contextlib import aclosing
from functools import partial

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from items import catalogue
from items.changes import feed, stream
from items.changes.feed import START
from items.changes.stream import KEEP_ALIVE, running_stream
from items.models import ItemChange
from resilient_site.edge.cache import invalidation
from resilient_site.edge.streaming import Stream, Wait
from resilient_site.models import Epoch
from resilient_site.resilience import poller
from tests.event_streams import (
    in_asyncio,
    join_pollers,
    parse_events,
)
from tests.factories import TESTER, make_item
from tests.threads import in_threads

pytestmark = [pytest.mark.once, pytest.mark.django_db(transaction=True)]

CHANGES = "/api/v1/changes"
EVENTS = "/api/v1/changes/events"


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Short times, and no thread left behind."""
    monkeypatch.setattr(stream, "POLL_S", 0.01)
    monkeypatch.setattr(poller, "LINGER_S", 0.02)
    yield
    join_pollers("changes")


make = sync_to_async(make_item)


def shown(content: bytes) -> list[tuple[str, dict]]:
    """Return the events with their ids."""
    return [(cursor, data) for _, cursor, data in parse_events(content)]


def ids(content: bytes) -> list[str]:
    return [data["item_id"] for _, data in shown(content)]


def place(content: bytes) -> str:
    """Return the id that a client comes back with."""
    return re.findall(rb"^id: (.*)$", content, re.M)[-1].decode()


# --- the first answer


def test_stream_response_holds_the_changes_after_the_position(anonymous_api):
    for name in "abc":
        make_item(id=name)
    content = anonymous_api.get(EVENTS).content
    assert ids(content) == ["a", "b", "c"]
    (first, data), *_ = shown(content)
    assert (data["version"], data["action"], data["before"]) == (1, "created", None)
    assert data["after"]["name"]
    assert "actor" not in data
    assert ids(anonymous_api.get(f"{EVENTS}?since={first}").content) == ["b", "c"]

    at_end = anonymous_api.get(f"{EVENTS}?since=now")
    assert (at_end["Content-Type"], ids(at_end.content)) == ("text/event-stream", [])
    assert place(at_end.content) == place(content)
    back = anonymous_api.get(f"{EVENTS}?since=now", headers={"Last-Event-ID": first})
    assert ids(back.content) == ["b", "c"]


def test_client_far_behind_gets_one_page_and_reconnects(anonymous_api, monkeypatch):
    monkeypatch.setattr(stream, "PAGE", 2)
    for name in "abc":
        make_item(id=name)
    first = anonymous_api.get(EVENTS)
    assert ids(first.content) == ["a", "b"]
    assert b"retry: 100\n" in first.content
    assert not hasattr(first, "continuation")
    headers = {"Last-Event-ID": place(first.content)}
    second = anonymous_api.get(EVENTS, headers=headers)
    assert ids(second.content) == ["c"]
    assert isinstance(second.continuation, Stream)


def test_invalid_cursor_is_rejected_by_parameter(anonymous_api):
    for path, headers, named in (
        (f"{CHANGES}?since=x", {}, "since"),
        (f"{EVENTS}?since=bm90IG9uZQ", {}, "since"),
        (EVENTS, {"Last-Event-ID": "WzEsMl0"}, "Last-Event-ID"),
    ):
        answer = anonymous_api.get(path, headers=headers)
        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == [named]


# --- a request that waits


def test_request_waits_only_when_there_are_no_changes(anonymous_api):
    prefer = {"Prefer": "wait=100"}
    empty = anonymous_api.get(CHANGES, headers=prefer)
    assert isinstance(empty.continuation, Wait)
    assert empty.continuation.timeout_s == 60
    assert empty.continuation.then.startswith(f"{CHANGES}?since=")
    assert empty["Preference-Applied"] == "wait=60"
    assert empty["Cache-Control"] == "no-store"
    assert "ETag" not in empty
    make_item(id="a")
    full = anonymous_api.get(CHANGES, headers=prefer)
    assert not hasattr(full, "continuation")
    at_end = anonymous_api.get(f"{CHANGES}?since=now", headers=prefer)
    assert at_end.json()["results"] == []
    # The internal GET is of the same place, which is no longer the end.
    assert at_end.json()["next"].endswith(at_end.continuation.then)
    assert not hasattr(anonymous_api.get(f"{CHANGES}?since=now"), "continuation")


@in_asyncio
async def test_wait_ends_for_clients_before_the_change():
    await make(id="a")
    place = await sync_to_async(feed.parse_cursor)("now", "")
    waiting = asyncio.create_task(running_stream().wait_for_change(*place, ""))
    await running_stream().wait_for_change(place[0], START, "")
    assert not waiting.done()
    await make(id="b")
    await waiting


# --- a stream that goes on


@pytest.mark.parametrize(
    ("read_every_s", "is_announced"),
    [(1000, True), (0.1, False)],
    ids=["announced", "at the next poll"],
)
@in_asyncio
async def test_stream_continues_with_changes_as_they_are_made(
    monkeypatch, read_every_s, is_announced
):
    monkeypatch.setattr(stream, "READ_EVERY_S", read_every_s)
    await make(id="before")
    place = await sync_to_async(feed.parse_cursor)("now", "")
    await make(id="between")
    async with aclosing(running_stream().events(b"begin", *place, "")) as events:
        assert await anext(events) == b"begin"
        assert ids(await anext(events)) == ["between"]
        with monkeypatch.context() as deaf:
            if not is_announced:
                deaf.setattr(invalidation.invalidations, "record", lambda tags: None)
            await make(id="after")
        assert ids(await anext(events)) == ["after"]


@in_asyncio
async def test_purge_empties_the_buffer_and_is_streamed():
    await make(id="a", name="Confidential")
    place = await sync_to_async(feed.parse_cursor)("now", "")
    async with aclosing(running_stream().events(b"begin", *place, "")) as events:
        await anext(events)
        await make(id="b", name="Confidential")
        assert b"Confidential" in await anext(events)
        purge = sync_to_async(catalogue.purge_items)
        await purge(["a", "b"], actor=TESTER)
        newer = shown(await anext(events))
        assert {(data["action"], data["after"]) for _, data in newer} == {
            ("purged", None)
        }
        frames = [event.frame for event in running_stream().buffer.after(START)]
        assert len(frames) == 4
        assert b"Confidential" not in b"".join(frames)


@in_asyncio
async def test_purge_while_the_buffer_is_filled_empties_it(monkeypatch):
    await make(id="a", name="Confidential")
    read = feed.last_changes

    def read_before_a_purge(number: int) -> list[ItemChange]:
        changes = [*read(number)]
        monkeypatch.setattr(feed, "last_changes", read)
        in_threads(partial(catalogue.purge_items, ["a"], actor=TESTER))
        return changes

    place = await sync_to_async(feed.parse_cursor)("now", "")
    monkeypatch.setattr(feed, "last_changes", read_before_a_purge)
    async with aclosing(running_stream().events(b"begin", *place, "")) as events:
        await anext(events)
        [(_, data)] = shown(await anext(events))
        assert data["action"] == "purged"
        frames = [event.frame for event in running_stream().buffer.after(START)]
        assert b"Confidential" not in b"".join(frames)


@in_asyncio
async def test_streams_and_waits_end_with_the_epoch():
    await make(id="a")
    epoch, position = await sync_to_async(feed.parse_cursor)("now", "")
    waiting = asyncio.create_task(running_stream().wait_for_change(epoch, position, ""))
    async with aclosing(running_stream().events(b"", epoch, position, "")) as events:
        await anext(events)
        ending = asyncio.ensure_future(anext(events))
        await running_stream().wait_for_change(epoch, START, "")
        assert not waiting.done()
        await sync_to_async(Epoch.objects.update)(value="another")
        with pytest.raises(StopAsyncIteration):
            await ending
        await waiting


@pytest.mark.parametrize("is_old", [False, True], ids=["of another", "without"])
def test_position_of_another_epoch_is_told_to_start_over(anonymous_api, is_old):
    make_item(id="a")
    page = anonymous_api.get(CHANGES).json()
    assert page["epoch"] == Epoch.current()
    cursor = page["next"].partition("since=")[2]
    assert anonymous_api.get(f"{CHANGES}?since={cursor}").status_code == 200
    if is_old:
        cursor = cursor.partition(".")[2]
    else:
        Epoch.objects.update(value="another")
    for path, headers, named in (
        (f"{CHANGES}?since={cursor}", {}, "since"),
        (f"{EVENTS}?since={cursor}", {}, "since"),
        (EVENTS, {"Last-Event-ID": cursor}, "Last-Event-ID"),
    ):
        answer = anonymous_api.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "epoch_changed")
        assert list(answer.json()["errors"]) == [named]
        assert "Start over" in answer.json()["detail"]


def test_position_that_the_log_lacks_is_told_to_start_over(anonymous_api):
    """As after a dump was put back by hand, with its epoch."""
    make_item(id="a")
    make_item(id="b")
    cursor = anonymous_api.get(CHANGES).json()["next"].partition("since=")[2]
    ItemChange.objects.filter(item_id="b").delete()
    answer = anonymous_api.get(f"{CHANGES}?since={cursor}")
    assert (answer.status_code, answer.json()["code"]) == (400, "epoch_changed")


@in_asyncio
async def test_stream_is_kept_alive_while_the_database_fails(monkeypatch):
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.1)
    failing = threading.Event()
    failing.set()
    read = feed.last_changes

    def fail(limit):
        if failing.is_set():
            raise OperationalError("away")
        return read(limit)

    monkeypatch.setattr(feed, "last_changes", fail)
    await make(id="a")
    epoch = await sync_to_async(Epoch.current)()
    async with aclosing(running_stream().events(b"", epoch, START, "")) as events:
        await anext(events)
        assert await anext(events) == KEEP_ALIVE
        failing.clear()
        while (piece := await anext(events)) == KEEP_ALIVE:
            pass
        assert ids(piece) == ["a"]


@in_asyncio
async def test_slow_client_is_disconnected(monkeypatch):
    monkeypatch.setattr(stream, "BUFFER_BYTES", 1)  # but the newest event is kept
    epoch = await sync_to_async(Epoch.current)()
    slow, fast = (running_stream().events(b"", epoch, START, "") for _ in range(2))
    async with aclosing(slow), aclosing(fast):
        await anext(slow)
        await anext(fast)
        seen = []
        for number in range(10):
            await make(id=f"n{number}")
            seen += ids(await anext(fast))
        assert seen == [f"n{number}" for number in range(10)]
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
