"""What the tests of this package share."""

from collections.abc import Iterator

import pytest

from resilient_site.cache import redis_client
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaker]:
    """The cache's own for this test, whose outages are none of the next one."""
    breaker = Breaker("cache", open_s=0.5, open_max_s=1.0)
    monkeypatch.setattr(breakers, "cache", breaker)
    yield breaker
    for one in list(redis_client.instances):
        one.close()
