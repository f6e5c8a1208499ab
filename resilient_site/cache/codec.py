"""What the threads of a process share of a cache, and the form of its values."""

import json
import time
from functools import cache as once
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder

from resilient_site.cache.lru import Memory
from resilient_site.cache.redis_client import Remote
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State


class Store:
    """What the threads of a process share: Django makes a backend for each."""

    def __init__(self, url: str, budget_s: float, memory_bytes: int) -> None:
        self.memory = Memory(memory_bytes)
        self.remote = _remote(url, budget_s) if url else None
        self.hits = self.misses = self.fallbacks = 0


def _remote(url: str, budget_s: float) -> Remote:
    # Redis takes long to import: not where there is none.
    from resilient_site.cache.connections import connector

    return Remote(connector(url, budget_s), budget_s)


@once
def shared_store(url: str, budget_s: float, memory_bytes: int) -> Store:
    if not settings.CACHE_BREAKER:
        breakers.cache.hold(State.CLOSED)
    return Store(url, budget_s, memory_bytes)


def pack(value: Any) -> bytes | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return json.dumps(value, cls=DjangoJSONEncoder).encode()


def as_json(packed: bytes | int) -> bytes:
    return packed if isinstance(packed, bytes) else str(packed).encode()


def sealed(packed: bytes | int, ttl: float | None) -> bytes:
    """Return a value as it goes to Redis: with the time of its end."""
    end = b"" if ttl is None else b"%d" % ((time.time() + ttl) * 1000)
    return end + b":" + as_json(packed)


def unpack(packed: bytes | int) -> Any:
    return packed if isinstance(packed, int) else json.loads(packed)


def milliseconds(ttl: float | None) -> str:
    return "" if ttl is None else str(max(1, int(ttl * 1000)))
