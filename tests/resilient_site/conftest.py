"""Fixtures of this package."""

import pytest

from resilient_site.cache import backend
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker
from tests.clock import Clock


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """The circuit breaker of the cache, fresh for this test."""
    breaker = Breaker("cache", open_s=0.5, open_max_s=1.0)
    monkeypatch.setattr(breakers, "cache", breaker)
    # A busy machine would excuse Redis.
    monkeypatch.setattr(backend, "is_starved", lambda: False)
    return breaker


@pytest.fixture
def clock() -> Clock:
    return Clock()
