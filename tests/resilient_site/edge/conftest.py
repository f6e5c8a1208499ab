"""The edge in this process, without a server: its clients call it as a server does."""

from collections.abc import Iterator

import pytest
import redis
from django.core.cache import caches
from django.db import connection
from django.test import override_settings

from resilient_site import settings as as_started
from resilient_site.edge import policy, wsgi_bridge
from resilient_site.edge.admission import Admission
from resilient_site.edge.cache import coalescing, grouped_reads
from resilient_site.edge.cache.invalidation import subscriber
from resilient_site.edge.cache.store import response_store
from tests.resilient_site.edge import views
from tests.resilient_site.edge.clients import ORIGIN_THREADS
from tests.servers import Redis


@pytest.fixture(autouse=True)
def fresh_edge(settings, tmp_path, monkeypatch) -> Iterator[None]:
    """An edge without cached responses, with a folder of its own."""
    # A busy machine may take longer than a reader waits.
    settings.LAST_KNOWN_TIMEOUT_S = 10
    vars(response_store).clear()  # with its connection to Redis
    response_store.__init__(  # type: ignore[misc]
        tmp_path / "stale-responses",
        settings.READ_CACHE_BYTES,
        settings.LAST_KNOWN_REDIS_BYTES,
        settings.LAST_KNOWN_BYTES,
    )
    admission = Admission(ORIGIN_THREADS, settings.ADMISSION_PATIENCE_S)
    monkeypatch.setattr(wsgi_bridge, "admission", admission)
    coalescing.paused.clear()
    coalescing.in_flight.clear()
    grouped_reads.readers.clear()
    grouped_reads.common_headers.clear()
    policy.policy_at.cache_clear()
    policy.resolve_path.cache_clear()
    views.forget()
    subscriber.is_subscribed.set()
    yield
    subscriber.is_subscribed.clear()
    policy.policy_at.cache_clear()
    policy.resolve_path.cache_clear()


@pytest.fixture
def no_connection_stays(monkeypatch) -> None:
    """The edge's threads outlive the test, and its database."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)


@pytest.fixture
def server(redis_server: Redis) -> Iterator[redis.Redis]:
    """Redis with nothing in it, in a database of its own: its timeouts are long."""
    aliases = as_started.caches(redis_server.url(5))
    for alias in aliases.values():
        alias["OPTIONS"] |= {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5}
    client = redis.Redis.from_url(redis_server.url(5))
    with override_settings(CACHES=aliases):
        caches["responses"].clear()
        yield client
    client.close()


@pytest.fixture
def listening(monkeypatch) -> None:
    """All changes from here on are received."""
    monkeypatch.setattr(subscriber, "_subscribed_at", -(2**62))
