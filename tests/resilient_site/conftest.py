"""What the tests of this package share."""

from collections.abc import Iterator

import pytest

from resilient_site.cache import redis_client
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker
from tests.running import Site


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaker]:
    """The cache's own for this test, whose outages are none of the next one."""
    breaker = Breaker("cache", open_s=0.5, open_max_s=1.0)
    monkeypatch.setattr(breakers, "cache", breaker)
    yield breaker
    for one in list(redis_client.instances):
        one.close()


@pytest.fixture(scope="session")
def strict_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A web process that has little patience, and room for few connections."""
    site = Site(
        tmp_path_factory.mktemp("site"),
        RATE_LIMITS="off",
        WEB_HEAD_S="1",
        WEB_KEEP_ALIVE_S="3",
        WEB_MAX_CONNECTIONS="100",
    )
    try:
        yield site.start_web()
    finally:
        site.stop()
