"""The relay with a real broker: what the consumer gets is what the change log has."""

import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dj_database_url
import kombu
import pytest
from django.core.management import call_command
from django.db import Error, connection

from items import catalogue
from items.events.cloudevents import CONTENT_TYPE, event_id
from items.events.models import EventRelay
from items.models import ItemChange
from resilient_site.accounts.actor import Actor
from tests.compute.conftest import connected_to, database_of_tests, environment
from tests.events import QUEUE, Consumer
from tests.factories import make_item
from tests.private_server import BUSY_S, wait_for
from tests.running import ROOT

# On PostgreSQL alone: what a broker is for is a site on several machines.
pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

ACTOR = Actor(None, "test")
BACKLOG = 1_200


class RunningRelay:
    """One `manage.py relay_events`."""

    def __init__(self, env: dict[str, str], output: Path) -> None:
        self.path = output
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "relay_events"],
                cwd=ROOT, env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def output(self) -> str:
        return self.path.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def make_relay(tmp_path) -> Iterator[Callable[..., RunningRelay]]:
    relays: list[RunningRelay] = []

    def make(env: dict[str, str], url: str) -> RunningRelay:
        made = environment(tmp_path) | env | {"EVENTS_URL": url}
        relay = RunningRelay(made, tmp_path / f"relay-{len(relays)}.log")
        relays.append(relay)
        return relay

    yield make
    for relay in relays:
        relay.kill()
        print(relay.output())  # shown when the test has failed


@pytest.fixture
def make_consumer() -> Iterator[Callable[[str], Consumer]]:
    consumers: list[Consumer] = []

    def make(url: str) -> Consumer:
        consumers.append(Consumer(url))
        return consumers[-1]

    yield make
    for consumer in consumers:
        consumer.close()


@pytest.fixture
def url(rabbitmq_server) -> str:
    """A broker without a queue, that others use, too."""
    with kombu.Connection(rabbitmq_server.url()) as broker:
        QUEUE.bind(broker.default_channel).delete()
    return rabbitmq_server.url()


@pytest.fixture
def own_database(postgres_own, django_db_blocker) -> Iterator[dict[str, str]]:
    """Settings of the test's own PostgreSQL, which it may stop."""
    url = postgres_own.url()
    settings = dj_database_url.parse(url)
    with django_db_blocker.unblock(), connected_to(**settings):
        call_command("migrate", verbosity=0)
        yield {"DATABASE_URL": url}


@contextmanager
def writing(names: range) -> Iterator[None]:
    """Write in a thread of its own, to its end."""

    def run() -> None:
        write(names)
        connection.close()

    writer = threading.Thread(target=run)
    writer.start()
    try:
        yield
    finally:
        writer.join()


def write(names: range) -> None:
    """Create, change and delete; through outages of the database, too."""
    for number in names:
        item = f"item-{number % 40}"
        while True:
            try:
                change(item, number)
                break
            except Error:
                connection.close()
                time.sleep(0.1)


def change(item: str, number: int) -> None:
    try:
        if number % 7 == 3:
            catalogue.delete_item(item, actor=ACTOR)
        else:
            catalogue.update_item(item, {"name": f"n{number}"}, actor=ACTOR)
    except catalogue.ItemNotFound:
        make_item(id=item, name=f"n{number}")


def logged() -> dict[str, tuple[str, int]]:
    return {
        event_id(one): (one.item_id, one.version) for one in ItemChange.objects.all()
    }


def holding(relays: list[RunningRelay]) -> RunningRelay:
    holder = EventRelay.objects.get().holder
    (found,) = [one for one in relays if f":{one.process.pid}:" in holder]
    return found


def wait_for_all(consumer: Consumer) -> None:
    """Wait until each change was published."""
    wait_for(lambda: set(consumer.ids()) >= set(logged()), 90)


def assert_equal_and_in_order(consumer: Consumer, duplicates: int = 0) -> None:
    log = logged()
    assert set(consumer.ids()) == set(log)
    assert consumer.types == {CONTENT_TYPE}
    again = len(consumer.bodies) - len(log)
    assert again <= duplicates
    versions = defaultdict(list)
    for name in dict.fromkeys(consumer.ids()):  # each at its first time
        item, version = log[name]
        versions[item].append(version)
    for seen in versions.values():
        assert seen == list(range(1, len(seen) + 1))


def test_every_change_is_published_once_and_in_order(
    transactional_db, url, make_relay, make_consumer
):
    write(range(100))
    consumer = make_consumer(url)
    relay = make_relay(database_of_tests(), url)
    wait_for_all(consumer)
    write(range(100, 200))
    wait_for_all(consumer)
    assert_equal_and_in_order(consumer)

    assert relay.stop() == 0
    assert EventRelay.objects.get().held_until is None


def test_hung_relay_is_replaced_and_no_change_is_lost(
    transactional_db, url, make_relay, make_consumer
):
    consumer = make_consumer(url)
    relays = [make_relay(database_of_tests(), url) for _ in range(2)]
    with writing(range(300)):
        wait_for(lambda: len(consumer.bodies) > 50)
        first = holding(relays)
        first.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: holding(relays) is not first, 15 + BUSY_S)
        first.process.send_signal(signal.SIGCONT)
        seen = len(consumer.bodies)
        make_item(id="after-the-pause")
        wait_for(lambda: len(consumer.bodies) > seen)
        assert holding(relays) is not first
    wait_for_all(consumer)
    assert_equal_and_in_order(consumer, duplicates=500)


def test_broker_that_is_killed_loses_no_change(
    transactional_db, rabbitmq_own, make_relay, make_consumer
):
    consumer = make_consumer(rabbitmq_own.url())
    relay = make_relay(database_of_tests(), rabbitmq_own.url())
    with writing(range(300)):
        wait_for(lambda: len(consumer.bodies) > 50)
        rabbitmq_own.kill()
        make_item(id="while-it-is-away")
        wait_for(lambda: EventRelay.objects.exclude(trouble="").exists())
        rabbitmq_own.start()
    wait_for_all(consumer)
    wait_for(lambda: not EventRelay.objects.exclude(trouble="").exists())
    assert_equal_and_in_order(consumer, duplicates=500)
    assert relay.output().count("the broker failed") == 1
    assert relay.stop() == 0


def test_database_that_is_killed_loses_no_change(
    own_database, postgres_own, url, make_relay, make_consumer
):
    consumer = make_consumer(url)
    relay = make_relay(own_database, url)
    write(range(100))
    wait_for(lambda: len(consumer.bodies) > 50)
    postgres_own.kill()
    wait_for(lambda: "the database failed" in relay.output())
    postgres_own.start()
    write(range(100, 200))
    wait_for_all(consumer)
    assert_equal_and_in_order(consumer, duplicates=500)
    assert relay.stop() == 0


def test_redis_works_as_a_broker(
    transactional_db, redis_own, make_relay, make_consumer
):
    consumer = make_consumer(redis_own.url())
    make_relay(database_of_tests(), redis_own.url())
    write(range(100))
    wait_for_all(consumer)
    assert_equal_and_in_order(consumer)


def test_long_backlog_is_published(transactional_db, url, make_relay):
    rows = [
        ItemChange(
            item_id=f"i{n}", version=1, action="created", actor_name="test",
            after={"name": f"n{n}", "description": "d" * 100, "tags": []},
        )
        for n in range(BACKLOG)
    ]  # fmt: skip
    ItemChange.objects.bulk_create(rows, batch_size=1_000)
    with kombu.Connection(url) as broker:
        queue = QUEUE.bind(broker.default_channel)
        queue.declare()
        make_relay(database_of_tests(), url)
        last = ItemChange.objects.latest("pk").pk
        wait_for(lambda: EventRelay.objects.filter(change=last).exists())
        assert queue.queue_declare(passive=True).message_count == BACKLOG
