"""The relay with real brokers: what the consumer gets is what the change log has."""

import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import kombu
import pytest
from django.db import connection
from django.utils import timezone

from items.events.publisher import CONTENT_TYPE, event_id
from items.events.relay import BATCH
from items.models import EventRelay, ItemChange
from tests.compute.conftest import database_of_tests, environment
from tests.events import QUEUE, Consumer
from tests.factories import change_items, make_item
from tests.faults.proxy import Proxy
from tests.private_server import LOOPBACK, free_port, wait_for
from tests.running import ROOT
from tests.servers import RabbitMQ

# On PostgreSQL alone: what a broker is for is a site on several machines.
pytestmark = pytest.mark.once


class RunningRelay:
    """One `manage.py relay_events`."""

    def __init__(self, env: dict[str, str], output: Path) -> None:
        self.path, self.page = output, f"http://{env['METRICS_BIND']}/metrics"
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "relay_events"],
                cwd=ROOT, env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def output(self) -> str:
        return self.path.read_text()

    def metrics(self) -> str:
        with urlopen(self.page, timeout=60) as response:
            return response.read().decode()

    def holds_lease(self) -> bool:
        holder = f":{self.process.pid}:"
        return EventRelay.objects.filter(holder__contains=holder).exists()


@pytest.fixture
def make_relays(transactional_db, tmp_path) -> Iterator[Callable[..., list]]:
    relays: list[RunningRelay] = []

    def make(number: int, url: str) -> list[RunningRelay]:
        env = environment(tmp_path) | database_of_tests() | {"EVENTS_URL": url}
        env["METRICS_BIND"] = f"{LOOPBACK}:{free_port()}"  # one of several gets it
        for one in range(number):
            relays.append(RunningRelay(env, tmp_path / f"relay-{one}.log"))
        return relays

    yield make
    for relay in relays:
        relay.process.kill()
        relay.process.wait()
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
def broker(rabbitmq_server) -> Iterator[RabbitMQ]:
    """The session's RabbitMQ without a queue; a test may kill it."""
    with kombu.Connection(rabbitmq_server.url()) as broker:
        QUEUE.bind(broker.default_channel).delete()
    yield rabbitmq_server
    if not rabbitmq_server.running():
        rabbitmq_server.start()


@contextmanager
def changing_items(numbers: range) -> Iterator[None]:
    """Change items in a thread of its own, to its end."""

    def run() -> None:
        change_items(numbers)
        connection.close()

    writer = threading.Thread(target=run)
    writer.start()
    try:
        yield
    finally:
        writer.join()


def logged() -> dict[str, tuple[str, int]]:
    return {
        event_id(one): (one.item_id, one.version) for one in ItemChange.objects.all()
    }


def wait_for_all(consumer: Consumer) -> None:
    """Wait until each change that has been made is published."""
    log = set(logged())
    wait_for(lambda: log <= set(consumer.ids()))


def assert_equal_and_in_order(consumer: Consumer, duplicates: int = 0) -> None:
    wait_for_all(consumer)
    log = logged()
    assert set(consumer.ids()) == set(log)
    assert consumer.types == {CONTENT_TYPE}
    assert len(consumer.bodies) - len(log) <= duplicates
    versions = defaultdict(list)
    for name in dict.fromkeys(consumer.ids()):  # each at its first time
        item, version = log[name]
        versions[item].append(version)
    for seen in versions.values():
        assert seen == list(range(1, len(seen) + 1))


def test_outages_of_broker_and_database_lose_no_change(
    broker, postgres_server, make_relays, make_consumer
):
    """Without one, each change is published once; first a backlog of two batches."""
    after = {"name": "n", "description": "d" * 100, "tags": []}
    ItemChange.objects.bulk_create(
        ItemChange(item_id=f"i{n}", version=1, action="created", after=after)
        for n in range(BATCH + 100)
    )
    change_items(range(50))
    consumer = make_consumer(broker.url())
    (relay,) = make_relays(1, broker.url())
    wait_for_all(consumer)
    change_items(range(50, 100))
    assert_equal_and_in_order(consumer)
    published = f"resilient_site_events_published_total {len(logged())}.0\n"
    wait_for(lambda: published in relay.metrics())

    received = len(consumer.bodies)
    with changing_items(range(100, 250)):
        wait_for(lambda: len(consumer.bodies) > received)
        broker.kill()
        make_item(id="while-it-is-away")
        wait_for(lambda: EventRelay.objects.exclude(trouble="").exists())
        broker.start()
    wait_for(lambda: not EventRelay.objects.exclude(trouble="").exists())
    assert_equal_and_in_order(consumer, duplicates=BATCH)
    assert relay.output().count("the broker failed") == 1

    postgres_server.kill()
    wait_for(lambda: "the database failed" in relay.output())
    postgres_server.start()
    connection.close()
    change_items(range(250, 270))
    assert_equal_and_in_order(consumer, duplicates=2 * BATCH)

    relay.process.terminate()
    assert relay.process.wait(90) == 0
    assert EventRelay.objects.get().held_until is None


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_network_that_loses_connections_to_the_broker_stops_no_events(
    request, make_relays, make_consumer, kind
):
    server = request.getfixturevalue(f"{kind}_server")
    url = server.url()
    consumer = make_consumer(url)
    with closing(Proxy(server.port)) as network:
        make_relays(1, url.replace(f":{server.port}", f":{network.port}"))
        for number in range(3):
            make_item(id=f"{kind}-{number}")
            log = set(logged())
            wait_for(lambda log=log: log <= set(consumer.ids()))
            network.lose()


def test_hung_relay_is_replaced_and_no_change_is_lost(
    redis_server, make_relays, make_consumer
):
    """The broker is Redis."""
    url = redis_server.url(9)
    consumer, relays = make_consumer(url), make_relays(2, url)
    wait_for(lambda: any(one.holds_lease() for one in relays))
    first, second = sorted(relays, key=RunningRelay.holds_lease, reverse=True)
    with changing_items(range(120)):
        wait_for(lambda: len(consumer.bodies) > 20)
        first.process.send_signal(signal.SIGSTOP)
        # As 10 seconds later.
        EventRelay.objects.update(held_until=timezone.now() - timedelta(seconds=1))
        wait_for(second.holds_lease)
        wait_for_all(consumer)
        first.process.send_signal(signal.SIGCONT)
        make_item(id="after-the-pause")
        wait_for_all(consumer)
        assert second.holds_lease()
    assert sum("Metrics are not served at" in one.output() for one in relays) == 1
    assert_equal_and_in_order(consumer, duplicates=BATCH)
