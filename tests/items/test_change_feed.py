"""A consumer of the change feed misses no commit, however slow its transaction."""

import threading

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from items.changes import feed
from items.models import ItemChange
from tests.factories import make_item


def read(since: feed.Position) -> tuple[list[str], feed.Position]:
    changes = feed.changes_after(since, 100)
    end = feed.position_of(changes[-1]) if changes else since
    return [change.item_id for change in changes], end


@pytest.mark.django_db(transaction=True)
def test_late_commit_is_not_skipped():
    """The slow one writes first, and commits after a later one was read."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    written, finish = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            make_item(id="slow", tags=[])
            written.set()
            assert finish.wait(10)
        connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert written.wait(10)
    make_item(id="fast", tags=[])
    first, since = read(feed.START)
    finish.set()
    thread.join()
    second, since = read(since)

    assert sorted(first + second) == ["fast", "slow"]
    assert read(since)[0] == []


@pytest.mark.django_db(transaction=True)
def test_restored_log_is_read_from_the_start(anonymous_api):
    """Its transactions may have larger numbers than the new cluster has reached."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite does not number transactions")
    make_item(id="before")
    ItemChange.objects.update(transaction=10**15)
    assert read(feed.START)[0] == []

    call_command("migrate", verbosity=0)
    make_item(id="after")

    assert read(feed.START)[0] == ["before", "after"]
    before = feed.cursor_of((10**15, 1))
    response = anonymous_api.get(f"/api/v1/changes?since={before}")
    assert response.status_code == 400
    assert b"another copy" in response.content
