"""What one machine changes the others take for changed, whatever Redis does."""

from contextlib import closing
from urllib.parse import urlsplit

import orjson
import pytest
import redis

from resilient_site.edge.cache import invalidation_pubsub
from resilient_site.edge.cache.invalidation import Generations, mark, now
from resilient_site.edge.cache.invalidation_pubsub import CHANNEL, Publisher, Subscriber
from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.resilient_site.cache.nonsense import answering, garbage, wrong_shape

pytestmark = pytest.mark.once

WITHIN_S = 5


@pytest.fixture
def there(tmp_path, monkeypatch, settings, redis_own):
    """The moments that another machine keeps."""
    settings.REDIS_URL = redis_own.url()
    there = Generations(tmp_path)
    monkeypatch.setattr(invalidation_pubsub.invalidation, "generations", there)
    return there


@pytest.fixture
def publisher(there):
    return Publisher()


@pytest.fixture
def subscriber(there):
    subscriber = Subscriber()
    subscriber.start()
    assert subscriber.is_listening.wait(WITHIN_S)
    yield subscriber
    subscriber.stop()


def copy_of(tag):
    return mark(now(), [tag])


def is_heard(there, copy):
    wait_for(lambda: not there.is_current(copy), WITHIN_S)


def test_a_change_is_heard_and_no_other(there, publisher, subscriber):
    bolt, nut = copy_of("item:bolt"), copy_of("item:nut")
    publisher.tell(["item:bolt"])
    is_heard(there, bolt)
    assert there.is_current(nut)
    assert publisher.flush()


def test_what_changed_while_redis_hung_is_heard_after(
    there, publisher, subscriber, redis_own
):
    redis_own.pause()
    bolt, nut = copy_of("item:bolt"), copy_of("item:nut")
    publisher.tell(["item:bolt"])
    publisher.tell(["item:nut"])
    assert not publisher.flush(0.1)
    redis_own.resume()
    is_heard(there, bolt)
    is_heard(there, nut)


def test_who_may_have_missed_something_takes_all_for_changed(
    there, subscriber, redis_own
):
    bolt = copy_of("item:bolt")
    redis_own.kill()
    wait_for(lambda: not subscriber.is_listening.is_set(), WITHIN_S)
    assert there.is_current(bolt)
    redis_own.start()
    is_heard(there, bolt)


def test_who_begins_without_redis_has_missed_what_was_before(there, redis_own, caplog):
    redis_own.kill()
    subscriber = Subscriber()
    subscriber.start()
    wait_for(lambda: "are not heard" in caplog.text, WITHIN_S)
    bolt = copy_of("item:bolt")
    redis_own.start()
    is_heard(there, bolt)
    subscriber.stop()


def test_a_server_that_hangs_is_noticed(there, subscriber, redis_own):
    bolt = copy_of("item:bolt")
    redis_own.pause()
    wait_for(lambda: not subscriber.is_listening.is_set(), WITHIN_S)
    redis_own.resume()
    is_heard(there, bolt)


@pytest.mark.parametrize("handle", [garbage, wrong_shape])
def test_who_was_answered_nonsense_goes_on_after(
    there, settings, redis_own, caplog, handle
):
    publisher, subscriber = Publisher(), Subscriber()
    with answering(handle) as url, closing(Proxy(urlsplit(url).port)) as way:
        settings.REDIS_URL = f"redis://127.0.0.1:{way.port}/0"
        bolt = copy_of("item:bolt")
        subscriber.start()
        publisher.tell(["item:bolt"])
        wait_for(lambda: "are not heard" in caplog.text, WITHIN_S)
        assert not publisher.flush(0.1)
        way.target = redis_own.port
        is_heard(there, bolt)
        assert publisher.flush(WITHIN_S)
        subscriber.stop()


def test_too_many_changes_are_told_as_everything(there, publisher, subscriber):
    bolt = copy_of("item:bolt")
    publisher.tell(f"item:{n}" for n in range(invalidation_pubsub.TAGS_MAX + 1))
    is_heard(there, bolt)


@pytest.mark.parametrize("nonsense", [b"", b"{", b"7", b"\xff"])
def test_nonsense_is_not_heard(there, publisher, subscriber, redis_own, nonsense):
    bolt = copy_of("item:bolt")
    redis.Redis.from_url(redis_own.url()).publish(CHANNEL, nonsense)
    publisher.tell(["item:nut"])
    assert there.is_current(bolt)
    redis.Redis.from_url(redis_own.url()).publish(CHANNEL, orjson.dumps(["item:bolt"]))
    is_heard(there, bolt)
