"""Invalidations reach other machines, whatever Redis does."""

import os
import threading
from contextlib import closing

import pytest
import redis

from resilient_site.edge.cache import invalidation
from resilient_site.edge.cache.invalidation import (
    CHANNEL,
    Invalidations,
    Publisher,
    Subscriber,
    invalidate,
    mark,
    now,
)
from resilient_site.resilience.cache_control import PRIVATE
from tests.faults.proxy import Proxy
from tests.private_server import wait_for

pytestmark = pytest.mark.once
THREAD = "invalidation-subscriber"


@pytest.fixture
def there(tmp_path, settings, redis_own, monkeypatch):
    """The invalidations of another machine."""
    # A busy machine has not lost its connection.
    monkeypatch.setattr(invalidation, "TIMEOUT_S", 4.0)
    settings.REDIS_URL = redis_own.url()
    return Invalidations(tmp_path)


@pytest.fixture
def publisher(there):
    return Publisher()


@pytest.fixture
def subscriber(there):
    subscriber, earlier, bolt = Subscriber(there), copy_of(PRIVATE), copy_of("bolt")
    subscriber.start()
    assert subscriber.is_subscribed.wait(90)
    assert not there.is_current(earlier)  # something may have changed meanwhile
    assert there.is_current(bolt)
    yield subscriber
    end(subscriber)


def end(subscriber):
    """Stop it, and wait until it logs nothing any more."""
    subscriber.stop()
    wait_for(lambda: THREAD not in {thread.name for thread in threading.enumerate()})


def copy_of(tag):
    return mark(now(), [tag])


def is_received(there, copy):
    wait_for(lambda: not there.is_current(copy))


def test_invalidation_is_received_and_no_nonsense(
    there, publisher, subscriber, redis_own
):
    bolt, nut = copy_of("item:bolt"), copy_of("item:nut")
    with redis.Redis.from_url(redis_own.url()) as client:
        for nonsense in (b"", b"{", b"7", b"\xff"):
            client.publish(CHANNEL, nonsense)
    publisher.publish(["item:bolt"])
    is_received(there, bolt)
    assert there.is_current(nut)
    assert publisher.flush(90)
    # Too many are published as all.
    private, first = copy_of(PRIVATE), copy_of("item:0")
    publisher.publish(f"item:{n}" for n in range(5_000))
    is_received(there, first)
    assert publisher.flush(90)
    assert there.is_current(private)
    publisher.publish(f"item:{n}" for n in range(5_001))
    is_received(there, nut)
    is_received(there, private)


@pytest.mark.django_db(transaction=True)
def test_commit_publishes_its_tags(there, publisher, subscriber, monkeypatch):
    monkeypatch.setattr(invalidation, "publisher", publisher)
    bolt = copy_of("item:bolt")
    invalidate("item:bolt")
    is_received(there, bolt)


def test_invalidation_is_published_after_redis_hung(
    there, publisher, subscriber, redis_own
):
    redis_own.pause()
    bolt, nut = copy_of("item:bolt"), copy_of("item:nut")
    publisher.publish(["item:bolt"])
    publisher.publish(["item:nut"])
    assert not publisher.flush(0.1)
    assert publisher._thread.daemon  # else the process could not end
    redis_own.resume()
    is_received(there, bolt)
    is_received(there, nut)


def test_invalidation_is_published_after_no_thread_could_start(
    there, publisher, subscriber, caplog
):
    bolt, nut = copy_of("item:bolt"), copy_of("item:nut")
    for outages in (1, 2):
        usual = threading.stack_size(1 << 47)  # more than there is
        try:
            for _ in range(2):
                publisher.publish(["item:bolt"])
                assert caplog.text.count("not published yet") == outages
        finally:
            threading.stack_size(usual)
        assert not publisher.flush(0)
        publisher.publish(["item:nut"])
        assert publisher.flush(90)
    is_received(there, bolt)
    is_received(there, nut)


def test_subscriber_that_may_have_missed_messages_invalidates_everything(
    there, publisher, subscriber, redis_own, caplog
):
    before, bolt, private = now(), copy_of("item:bolt"), copy_of(PRIVATE)
    assert subscriber.was_subscribed_at(before)
    redis_own.kill()
    wait_for(lambda: not subscriber.is_subscribed.is_set())
    assert not subscriber.was_subscribed_at(now())
    assert there.is_current(bolt)
    publisher.publish(["item:nut"])
    assert not publisher.flush(0.5)  # it is tried again
    redis_own.start()
    assert publisher.flush(90)
    is_received(there, bolt)
    wait_for(subscriber.is_subscribed.is_set)
    assert not there.is_current(private)
    assert subscriber.was_subscribed_at(now())
    assert not subscriber.was_subscribed_at(before)
    assert caplog.text.count("are not received") == 1
    assert caplog.text.count("are received again") == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_publishes_by_a_thread_of_its_own(
    there, publisher, subscriber, redis_own
):
    redis_own.pause()
    bolt = copy_of("item:bolt")
    publisher.publish(["item:nut"])  # by a thread that waits for Redis
    if not (child := os.fork()):
        publisher.publish(["item:bolt"])
        os._exit(0 if publisher.flush(60) else 1)
    redis_own.resume()
    is_received(there, bolt)
    assert os.waitpid(child, 0)[1] == 0


def test_network_that_loses_connections_to_redis_stops_no_invalidation(
    tmp_path, settings, redis_own
):
    with closing(Proxy(redis_own.port)) as network:
        settings.REDIS_URL = f"redis://127.0.0.1:{network.port}/0"
        there, publisher = Invalidations(tmp_path), Publisher()
        subscriber = Subscriber(there)
        subscriber.start()
        assert subscriber.is_subscribed.wait(90)
        bolt = copy_of("item:bolt")
        publisher.publish(["item:bolt"])
        is_received(there, bolt)
        assert publisher.flush(90)
        network.lose()
        nut, tags = copy_of("item:nut"), ["item:nut"]
        publisher.publish(tags)
        is_received(there, nut)
        bolt = copy_of("item:bolt")
        wait_for(subscriber.is_subscribed.is_set)
        publisher.publish(["item:bolt"])
        is_received(there, bolt)
        end(subscriber)


def test_subscriber_detects_that_redis_hangs(there, subscriber, redis_own):
    bolt = copy_of("item:bolt")
    threads = [one for one in threading.enumerate() if one.name == THREAD]
    assert all(thread.daemon for thread in threads)  # else no process could end
    with redis.Redis.from_url(redis_own.url()) as client:

        def calls(command: str) -> int:
            found = client.info("commandstats").get(f"cmdstat_{command}", {})
            return found.get("calls", 0)

        wait_for(lambda: calls("ping") > 1)
        assert calls("subscribe") == 1  # though nothing was published
    redis_own.pause()
    wait_for(lambda: not subscriber.is_subscribed.is_set())
    redis_own.resume()
    is_received(there, bolt)
    subscriber.stop()
    wait_for(lambda: not any(thread.is_alive() for thread in threads))
