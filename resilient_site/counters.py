"""What requests are counted in: the site's cache, this process alone without it.

A cache backend for django-ratelimit, which counts by `add` and then `incr`: over a
network that is two round trips, and the counter may be evicted in between.
"""

import logging
from time import monotonic
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache

logger = logging.getLogger(__name__)

# A cache that is away is left alone so long: each question may cost a time-out.
LEAVE_ALONE_S = 5


class _Shared:
    """The cache that all processes count in, and whether it answers."""

    def __init__(self) -> None:
        self.is_away = False
        self._ask_again_at = 0.0

    def call(self, method: str, *args: Any) -> Any:
        """Return its answer, or None while it is away; raise ValueError as it does."""
        if self.is_away and monotonic() < self._ask_again_at:
            return None
        try:
            # It may be set to answer None rather than to raise.
            answer = getattr(caches["default"], method)(*args)
        except ValueError:
            self._note(is_away=False)
            raise
        except Exception:  # noqa: BLE001 - each kind of cache has its own
            answer = None
        self._note(is_away=answer is None)
        return answer

    def _note(self, *, is_away: bool) -> None:
        if is_away:
            self._ask_again_at = monotonic() + LEAVE_ALONE_S
        if is_away == self.is_away:
            return
        self.is_away = is_away
        if is_away:
            logger.warning("The cache is away: each process limits rates by itself.")
        else:
            logger.info("The cache is back: rates are limited for all processes.")


shared = _Shared()


def is_local() -> bool:
    """Tell whether each process counts by itself because the shared cache is away."""
    return shared.is_away


class Counters(LocMemCache):
    """Counts in the shared cache, and in its own memory while that is away."""

    _timeout: float | None = None

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        """Leave the making to `incr`: most often the counter is there."""
        self._timeout = timeout
        return False

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        try:
            count = shared.call("incr", key, delta)
        except ValueError:  # it is not there
            if shared.call("add", key, delta, self._timeout):
                return delta
            count = shared.call("incr", key, delta)
        return self._count_here(key, delta) if count is None else count

    def _count_here(self, key: Any, delta: int) -> int:
        if super().add(key, delta, self._timeout):
            return delta
        return super().incr(key, delta)
