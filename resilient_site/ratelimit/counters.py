"""Counters of the rate limiter in Redis.

django-ratelimit counts by `add` and then `incr`: over a network that is two round
trips, and the counter may be evicted in between. Here `incr` does both in one
transaction. While Redis does not answer, each process counts for itself, beginning with
the last count it has seen.
"""

from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from resilient_site.cache.backend import CacheUnavailable, ResilientRedisCache


class RateCounters(ResilientRedisCache):
    uses_generation = False
    _timeout: float | None = DEFAULT_TIMEOUT

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> bool:
        """Leave it to `incr` to create the counter."""
        self._timeout = timeout
        return False

    def incr(
        self, key: Any, delta: int = 1, version: int | None = None, **options: Any
    ) -> int:
        try:
            count: int = self._call(self._incr_in_redis, key, delta, version)
            self.memory.set(key, count, self._timeout, version)
        except Exception:  # noqa: BLE001 - nothing that Redis does may get out
            self.server_state.fallbacks += 1
            self.memory.add(key, 0, self._timeout, version)
            count = self.memory.incr(key, delta, version)
        return count

    def _incr_in_redis(self, key: Any, delta: int, version: int | None) -> int:
        timeout = self._timeout
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        name = self.client.make_key(key, version=version)
        with self.client.get_client(write=True).pipeline() as pipeline:
            pipeline.set(name, 0, ex=timeout, nx=True)
            pipeline.incrby(name, delta)
            count = pipeline.execute()[-1]
        if not isinstance(count, int):
            raise CacheUnavailable(f"Redis counts {count!r}.")
        return count
