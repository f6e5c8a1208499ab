"""What requests are counted in: the site's cache, this process alone without it.

A cache backend for django-ratelimit, which counts by `add` and then `incr`: over a
network that is two round trips, and the counter may be evicted in between.
"""

from typing import Any, cast

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from resilient_site.cache.backend import GuardedCache


def is_local() -> bool:
    """Tell whether each process counts by itself because the shared cache is away."""
    counters = cast(Counters, caches["rates"])
    return counters.is_degraded


class Counters(GuardedCache):
    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        """Leave the making to `incr`: most often the counter is there."""
        self._last_add = self.make_key(key, version), self._ttl(timeout)
        return False
