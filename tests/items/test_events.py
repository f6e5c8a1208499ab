"""What is published, in which order, and who may publish it."""

import json
import threading
from datetime import timedelta

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from items import catalogue
from items.changes.feed import START, position_of
from items.events import health
from items.events.lease import (
    LEASE_S,
    MARGIN_S,
    RENEW_EVERY_S,
    Lease,
    LeaseLost,
    settle_restored,
)
from items.events.ordering import next_batch
from items.events.publisher import encode, event_id
from items.models import EventRelay, ItemChange
from resilient_site.accounts.actor import Actor
from resilient_site.health import components
from resilient_site.health.components import Status
from resilient_site.operations import doctor
from tests.clock import Clock
from tests.factories import make_item

pytestmark = [pytest.mark.once, pytest.mark.django_db]

# The feed shows what is committed.
committing = pytest.mark.django_db(transaction=True)


def test_event_holds_only_public_data(editor):
    item = make_item(id="bolt", tags=["metal"])
    catalogue.update_item(
        item.pk, {"name": "Steel bolt"}, actor=Actor(editor, editor.username)
    )
    made = ItemChange.objects.get(version=2)
    event = json.loads(encode("e1", made))
    assert b"edith" not in encode("e1", made)
    assert event["epoch"] == "e1"
    assert event["specversion"] == "1.0"
    assert event["type"] == "resilient-site.item.updated"
    assert (event["source"], event["subject"]) == ("/resilient-site/items", "bolt")
    assert event["id"] == event_id(made) == event_id(ItemChange.objects.get(pk=made.pk))
    assert event["time"].endswith("Z")
    assert event["data"]["version"] == 2
    assert event["data"]["after"] == {**event["data"]["before"], "name": "Steel bolt"}
    first = json.loads(encode("e1", ItemChange.objects.get(version=1)))
    assert first["sequence"] < event["sequence"]
    assert first["data"]["before"] is None


def test_number_that_sql_has_written_stops_no_event(editor):
    make_item(id="bolt", tags=["metal"])
    huge = {"name": "Bolt", "data": {"atoms": 10**30}}
    ItemChange.objects.filter(version=1).update(after=huge)
    event = json.loads(encode("e1", ItemChange.objects.get(version=1)))
    assert event["data"]["after"] == huge
    assert event["time"].endswith("Z")


# --- order


@committing
def test_waiting_transactions_are_published_in_order():
    """The one that was numbered first changes the item last."""
    make_item(id="x")
    numbered, go_on = threading.Event(), threading.Event()

    def late() -> None:
        with transaction.atomic():
            make_item(id="other")
            numbered.set()
            assert go_on.wait(90)
            catalogue.update_item("x", {"name": "third"}, actor=Actor(None, "test"))
        connection.close()

    thread = threading.Thread(target=late)
    thread.start()
    assert numbered.wait(90)
    catalogue.update_item("x", {"name": "second"}, actor=Actor(None, "test"))
    go_on.set()
    thread.join()

    for size in (1, 2, 3, 100):
        published, position, ahead = [], START, frozenset()
        while batch := next_batch(position, ahead, size):
            published += batch.changes
            position, ahead = batch.end, batch.ahead
        versions = [one.version for one in published if one.item_id == "x"]
        assert versions == [1, 2, 3]
        assert len(published) == 4
    feed = ItemChange.objects.settled().filter(item_id="x")
    assert list(feed.values_list("version", flat=True)) == [1, 3, 2]


# --- one relay at a time


def expire() -> None:
    past = timezone.now() - timedelta(seconds=1)
    EventRelay.objects.update(held_until=past)


@committing
def test_lease_is_lost_when_it_is_not_renewed():
    first, second = Lease(), Lease()
    assert first.acquire()
    assert not second.acquire()
    expire()
    assert second.acquire()
    make_item()
    with pytest.raises(LeaseLost):
        first.save(next_batch(START, (), 10))
    second.save(next_batch(START, (), 10))
    second.release()
    assert first.acquire()
    assert first.position == position_of(ItemChange.objects.get())


def test_delayed_relay_stops_publishing():
    clock = Clock()
    lease = Lease(clock)
    with pytest.raises(LeaseLost):
        lease.check()
    assert lease.acquire()
    lease.check()
    clock.now += LEASE_S - MARGIN_S
    with pytest.raises(LeaseLost):
        lease.check()
    assert lease.acquire()
    lease.check()


def test_lease_is_renewed():
    clock = Clock()
    lease = Lease(clock)
    assert lease.acquire()
    expire()
    assert lease.acquire()
    assert EventRelay.objects.get().held_until < timezone.now()
    clock.now += RENEW_EVERY_S
    assert lease.acquire()
    left = EventRelay.objects.get().held_until - timezone.now()
    assert timedelta(0) < left < timedelta(seconds=15)


# --- after a dump was restored


@committing
def test_unpublished_changes_of_a_restored_dump_are_published():
    for name in "abc":
        make_item(id=name)
    ItemChange.objects.update(transaction=10**15)
    published = ItemChange.objects.get(item_id="b")
    EventRelay.objects.create(transaction=10**15, change=published.pk, ahead=[7])

    call_command("migrate", verbosity=0)
    make_item(id="d")

    lease = Lease()
    assert lease.acquire()
    batch = next_batch(lease.position, lease.ahead, 10)
    assert [one.item_id for one in batch.changes] == ["c", "d"]


@committing
def test_relay_settles_the_position_of_a_restored_dump():
    make_item(id="a")
    EventRelay.objects.create(transaction=10**15, change=1)
    lease = Lease()
    assert lease.acquire()
    make_item(id="b")
    batch = next_batch(lease.position, lease.ahead, 10)
    assert [one.item_id for one in batch.changes] == ["b"]


@committing
def test_changes_made_during_a_migration_keep_their_number():
    def write() -> None:
        make_item()
        connection.close()

    def write_before(execute, *args):
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        return execute(*args)

    with connection.execute_wrapper(write_before):
        settle_restored()
    assert ItemChange.objects.exists()
    assert not ItemChange.objects.filter(transaction=0).exists()


# --- health, and without it


@committing
def test_health_check_reports_how_far_behind_the_relay_is():
    assert health.check().status is Status.FAIL
    lease = Lease()
    assert lease.acquire()
    assert health.check().status is Status.PASS
    make_item()
    old = timezone.now() - timedelta(minutes=1)
    ItemChange.objects.update(at=old)
    finding = health.check()
    assert finding.status is Status.WARN
    assert dict(finding.figures)["Changes to publish"] == "1"
    behind = int(dict(finding.figures)["Seconds behind"])
    assert 60 <= behind <= (timezone.now() - old).total_seconds()
    lease.record_failure("TimeoutError: timed out")
    away = health.check()
    assert (away.status, away.error) == (Status.FAIL, "TimeoutError: timed out")
    lease.save(next_batch(START, (), 10))
    assert health.check().status is Status.PASS


def test_events_are_checked_only_with_a_broker(settings, monkeypatch):
    monkeypatch.setattr(components, "_components", {})
    monkeypatch.setattr(doctor, "_checks", {})
    for url, names in (("", []), ("memory://", ["events"])):
        settings.EVENTS_URL = url
        apps.get_app_config("items").ready()
        assert [one.name for one in components.all_components()] == ["feed", *names]
        assert list(doctor._checks) == ["files", "feed", "indexes", *names]


def test_relay_needs_a_broker():
    with pytest.raises(CommandError, match="EVENTS_URL"):
        call_command("relay_events")
