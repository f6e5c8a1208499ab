"""A consumer of the change feed misses no commit, however slow its transaction."""

import os
import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from items.changes import feed, health
from items.changes.transactions import first_open_transaction
from items.models import ItemChange
from resilient_site.health.components import Status
from resilient_site.health.monitor import health_monitor
from resilient_site.models import Epoch
from resilient_site.operations.doctor import Level
from tests.factories import make_item

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'")


def read(since: feed.Position) -> tuple[list[str], feed.Position]:
    changes = feed.changes_after(since, 100)
    end = feed.position_of(changes[-1]) if changes else since
    return [change.item_id for change in changes], end


@on_postgresql
def test_late_commit_is_not_skipped():
    """The slow one writes first, and commits after a later one was read."""
    written, finish = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            make_item(id="slow", tags=[])
            written.set()
            assert finish.wait(90)
        connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert written.wait(90)
    make_item(id="fast", tags=[])
    first, since = read(feed.START)
    finish.set()
    thread.join()
    second, since = read(since)

    assert sorted(first + second) == ["fast", "slow"]
    assert read(since)[0] == []


@contextmanager
def open_transaction(database: str, *, is_prepared: bool = False):
    """A transaction with a number, and the pid of its backend."""
    url, name = os.environ["DATABASE_URL"], f"of {database}"
    with psycopg.connect(
        url, dbname=database, autocommit=True, application_name="the psql"
    ) as other:
        other.execute("BEGIN")
        other.execute("SELECT pg_current_xact_id()")
        if is_prepared:
            other.execute(f"PREPARE TRANSACTION '{name}'")
        try:
            yield other.info.backend_pid
        finally:
            other.execute(f"ROLLBACK PREPARED '{name}'" if is_prepared else "ROLLBACK")


@on_postgresql
@pytest.mark.parametrize("is_prepared", [False, True])
def test_transactions_of_other_databases_do_not_delay_the_feed(is_prepared):
    ours = connection.settings_dict["NAME"]
    with open_transaction("postgres", is_prepared=is_prepared):
        make_item(id="first")
        assert read(feed.START)[0] == ["first"]
        with open_transaction(ours, is_prepared=is_prepared):
            make_item(id="second")
            assert read(feed.START)[0] == ["first"]
        assert read(feed.START)[0] == ["first", "second"]


@on_postgresql
@pytest.mark.parametrize("is_prepared", [False, True])
def test_transaction_that_holds_the_feed_back_is_named(monkeypatch, is_prepared):
    ours = connection.settings_dict["NAME"]
    epochs: list[str] = []
    monkeypatch.setattr(health_monitor, "on_epoch", epochs.append)
    monkeypatch.setattr(health, "PATIENCE_S", 60)
    monkeypatch.setattr(health, "STANDING_STILL", timedelta(hours=1))
    assert health.check().status is Status.PASS
    assert epochs == [Epoch.current()]
    hours = [timezone.now()]
    with open_transaction(ours, is_prepared=is_prepared) as pid:
        hours.append(timezone.now())  # it may have struck meanwhile
        assert health.check().status is Status.PASS  # nothing waits
        make_item()
        assert health.check().status is Status.PASS  # not for long
        monkeypatch.setattr(health, "STANDING_STILL", timedelta(0))
        held, (finding,) = health.check(), health.examine()
    assert (held.status, finding.level) == (Status.WARN, Level.WARNING)
    assert any(f"{at:since %H:}" in held.meaning for at in hours)
    name = f"Prepared transaction (of {ours})" if is_prepared else f"{pid} (the psql)"
    assert name in held.error
    assert any(f"{at:since %Y-%m-%d %H:}" in held.error for at in hours)
    assert name in finding.what
    assert ("ROLLBACK PREPARED" if is_prepared else f"({pid})") in finding.todo
    assert health.check().status is Status.PASS


@on_postgresql
@pytest.mark.parametrize("database", ["ours", "postgres"])
def test_transaction_that_ends_after_the_snapshot_holds_the_feed(database):
    """What it wrote is not seen yet, and the server does not say any more whose it was.

    A snapshot that is held shows the moment between the two.
    """
    ours = connection.settings_dict["NAME"]
    with ExitStack() as opened:
        opened.enter_context(open_transaction(ours if database == "ours" else database))
        make_item(id="later")
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
            (number,) = cursor.fetchone()
            opened.close()
            assert first_open_transaction() == int(number)


@on_postgresql
def test_restored_log_is_read_from_the_start(anonymous_api):
    """Its transactions may have larger numbers than the new cluster has reached."""
    make_item(id="before")
    ItemChange.objects.update(transaction=10**15)
    assert read(feed.START)[0] == []

    call_command("migrate", verbosity=0)
    make_item(id="after")

    assert read(feed.START)[0] == ["before", "after"]
    before = feed.cursor_of(Epoch.current(), (10**15, 1))
    response = anonymous_api.get(f"/api/v1/changes?since={before}")
    assert response.status_code == 400
    assert response.json()["code"] == "epoch_changed"
