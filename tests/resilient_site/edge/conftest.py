"""The edge in this process, without a server: its clients call it as a server does."""

from collections.abc import Iterator

import pytest
from django.db import connection

from resilient_site.edge import policy, wsgi_bridge
from resilient_site.edge.admission import Admission
from resilient_site.edge.cache import coalescing, stores
from resilient_site.edge.cache.disk_stale_store import LastKnown
from resilient_site.edge.cache.invalidation_pubsub import subscriber
from tests.resilient_site.edge import views
from tests.resilient_site.edge.clients import ORIGIN_THREADS


@pytest.fixture(autouse=True)
def nothing_known(settings, tmp_path, monkeypatch) -> Iterator[None]:
    """An edge that has been asked nothing yet, with a folder of its own."""
    copies, last_known = stores.copies, stores.last_known
    copies.__init__(settings.READ_CACHE_BYTES)  # type: ignore[misc]
    last_known.__init__(  # type: ignore[misc]
        tmp_path / "last-known.sqlite3", settings.LAST_KNOWN_BYTES
    )
    admission = Admission(ORIGIN_THREADS, settings.ADMISSION_PATIENCE_S)
    monkeypatch.setattr(wsgi_bridge, "admission", admission)
    for kept in (
        coalescing.paused,
        coalescing.flights,
    ):
        kept.clear()
    policy.policy_at.cache_clear()
    views.forget()
    subscriber.is_listening.set()
    yield
    subscriber.is_listening.clear()
    last_known.stop()
    policy.policy_at.cache_clear()


@pytest.fixture
def last_known() -> LastKnown:
    """The answers on the disk; written at once where a test waits for it."""
    stores.last_known.start()
    return stores.last_known


@pytest.fixture
def no_connection_stays(monkeypatch) -> None:
    """The edge's threads outlive the test, and its database."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
