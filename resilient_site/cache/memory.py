"""Django cache in process memory, bounded by bytes.

It is the cache of a site without REDIS_URL, and stands in for Redis during an outage.
When it is full, the least recently used entries go. Each process has its own: what
another process changes is not seen here until the entry expires.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache

# Of one entry beside its key and value: two dictionary slots and the expiry time.
OVERHEAD_BYTES = 250
# A value counts as at least so much, so that a counter does not change its size.
MIN_VALUE_BYTES = 64


@dataclass
class MemoryUsage:
    bytes: int = 0
    entries: int = 0
    max_bytes: int = 0


# Django makes a backend for each thread; what they hold is the process's.
_usages: dict[str, MemoryUsage] = {}


class MemoryCache(LocMemCache):
    """Django's LocMemCache with a limit in bytes. OPTIONS: MEMORY_BYTES."""

    is_shared = False
    is_degraded = False
    _cache: OrderedDict[str, bytes]
    _expire_info: dict[str, float | None]
    _lock: Lock

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(name, params)
        options = params.get("OPTIONS", {})
        max_bytes = options.get("MEMORY_BYTES", settings.CACHE_MEMORY_BYTES)
        self.usage = _usages.setdefault(name, MemoryUsage(max_bytes=max_bytes))

    def validate_key(self, key: str) -> None:
        """Accept any key: the limits are memcached's."""

    def clear(self) -> None:
        with self._lock:
            self._cache.clear()
            self._expire_info.clear()
            self.usage.bytes = self.usage.entries = 0

    def _set(self, key: str, value: bytes, timeout: Any = DEFAULT_TIMEOUT) -> None:
        self._delete(key)
        size = _size(key, value)
        if size > self.usage.max_bytes:
            return
        while self.usage.bytes + size > self.usage.max_bytes:
            self._delete(next(reversed(self._cache)))
        self._cache[key] = value
        self._cache.move_to_end(key, last=False)
        self._expire_info[key] = self.get_backend_timeout(timeout)
        self.usage.bytes += size
        self.usage.entries += 1

    def _delete(self, key: str) -> bool:
        value = self._cache.pop(key, None)
        self._expire_info.pop(key, None)
        if value is None:
            return False
        self.usage.bytes -= _size(key, value)
        self.usage.entries -= 1
        return True


def _size(key: str, value: bytes) -> int:
    return len(key) + max(len(value), MIN_VALUE_BYTES) + OVERHEAD_BYTES


def memory_usage() -> MemoryUsage:
    """Return what all caches of this process hold in memory together."""
    total = MemoryUsage()
    for usage in list(_usages.values()):
        total.bytes += usage.bytes
        total.entries += usage.entries
        total.max_bytes += usage.max_bytes
    return total
