"""A Django cache that never raises and never waits long, whatever Redis does.

While Redis answers it is the truth, and memory only keeps copies of what passes. When
it does not, memory takes over within one call's budget, and at once from the third
failure on. LOCATION is the URL of Redis; without one, memory is all there is.

Values are JSON, in memory too: what is read back is the same wherever it was.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from resilient_site.cache.budget import shared_budget
from resilient_site.cache.codec import (
    as_json,
    milliseconds,
    pack,
    sealed,
    shared_store,
    unpack,
)
from resilient_site.cache.redis_client import Away

# Others cannot tell this process what they change while Redis is away.
COPY_S = 30.0
# Redis counts in 64 bits.
LARGEST_COUNTER = 2**62

type Timeout = Any  # seconds, None for ever, or Django's DEFAULT_TIMEOUT


def _apart(name: str) -> Any:
    """Make the coroutine of a method that may wait for Redis: no thread of ours does.

    Django's own would take turns in the one thread that all of an event loop shares.
    """

    async def method(self: "GuardedCache", *args: Any, **kwargs: Any) -> Any:
        call = getattr(self, name)
        if self._remote is None or self._remote.away:
            return call(*args, **kwargs)
        return await asyncio.to_thread(call, *args, **kwargs)

    return method


class GuardedCache(BaseCache):
    """The backend. OPTIONS: BUDGET_MS, MEMORY_BYTES."""

    def __init__(self, url: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS", {})
        budget_ms = options.get("BUDGET_MS", settings.CACHE_BUDGET_MS)
        memory_bytes = options.get("MEMORY_BYTES", settings.CACHE_MEMORY_BYTES)
        self._store = shared_store(url, budget_ms / 1000, memory_bytes)
        self._memory, self._remote = self._store.memory, self._store.remote
        # A counter that vanishes after `add` was refused is begun anew for as long.
        self._last_add: tuple[str, float | None] = ("", None)

    # --- what an operator wants to know

    @property
    def is_shared(self) -> bool:
        """Whether there is a Redis, and so what one process keeps others find."""
        return self._remote is not None

    def ping(self) -> None:
        """Ask Redis something, so that the breaker learns how it is."""
        if self._remote:
            self._tried(self._remote.ping)

    @property
    def is_degraded(self) -> bool:
        """Whether memory stands in for Redis, for some keys at least."""
        return self._remote is not None and self._remote.is_degraded

    def stats(self) -> dict[str, int]:
        store, remote = self._store, self._remote
        return {
            "hits": store.hits,
            "misses": store.misses,
            "fallbacks": store.fallbacks,
            "errors": remote.errors if remote else 0,
            "poisoned": remote.poisoned if remote else 0,
            "memory_bytes": self._memory.bytes,
            "memory_entries": len(self._memory),
        }

    # --- Django's interface

    def make_key(self, key: Any, version: int | None = None) -> str:
        name: str = super().make_key(key, version)
        if name.isascii():
            return name
        return name.encode(errors="backslashreplace").decode()

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self.get_many([key], version).get(key, default)

    def get_many(
        self, keys: Iterable[Any], version: int | None = None
    ) -> dict[Any, Any]:
        names = {key: self.make_key(key, version) for key in keys}
        if not names:
            return {}
        packed = self._read(list(names.values()))
        found = {}
        for key, name in names.items():
            if name in packed:
                try:
                    found[key] = unpack(packed[name])
                except (ValueError, RecursionError):
                    self._drop_poisoned(name)
        self._store.hits += len(found)
        self._store.misses += len(names) - len(found)
        return found

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return bool(self.get_many([key], version))

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        self.set_many({key: value}, timeout, version)

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> list[Any]:
        ttl = self._ttl(timeout)
        packed = {self.make_key(key, version): pack(data[key]) for key in data}
        if ttl is not None and ttl <= 0:
            self._delete(list(packed))
        elif packed:
            for name, value in packed.items():
                self._memory.set(name, value, self._copy_ttl(ttl))
            if self._remote:
                values = {name: sealed(value, ttl) for name, value in packed.items()}
                self._tried(self._remote.store, values, milliseconds(ttl))
        return []

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        name, ttl, packed = self.make_key(key, version), self._ttl(timeout), pack(value)
        if not isinstance(packed, int) or abs(packed) >= LARGEST_COUNTER:
            return self._add(name, packed, ttl)
        self._last_add = name, ttl
        return self._add(name, packed, ttl, is_counter=True)

    def _add(
        self,
        name: str,
        packed: bytes | int,
        ttl: float | None,
        is_counter: bool = False,
    ) -> bool:
        if ttl is not None and ttl <= 0:
            return name not in self._read([name])
        own_ttl = ttl if is_counter else self._copy_ttl(ttl)
        if self._remote:
            value = as_json(packed) if is_counter else sealed(packed, ttl)
            added = self._tried(
                self._remote.add, name, value, milliseconds(ttl), is_counter
            )
            if added:
                self._memory.set(name, packed, own_ttl)
            if added is not None:
                return bool(added)
        return self._memory.add(name, packed, own_ttl)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        name = self.make_key(key, version)
        begins, ttl = self._last_add[0] == name, self._last_add[1]
        if begins and ttl is not None and ttl <= 0:
            begins = False
        count: int | None
        try:
            count = self._remote_incr(name, delta, begins, ttl)
        except Away:
            count = self._memory.incr(name, delta)
            if count is None and begins:
                self._memory.set(name, delta, ttl)
                count = delta
        if count is None:
            raise ValueError(f"Key '{key}' not found, or not a number")
        return count

    def touch(
        self,
        key: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        name, ttl = self.make_key(key, version), self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            return self._delete([name]) > 0
        touched = self._memory.touch(name, self._copy_ttl(ttl))
        answer = None
        if self._remote:
            answer = self._tried(self._remote.touch, name, milliseconds(ttl))
        return touched if answer is None else bool(answer)

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._delete([self.make_key(key, version)]) > 0

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        if names := [self.make_key(key, version) for key in keys]:
            self._delete(names)

    def clear(self) -> None:
        self._memory.clear()
        if self._remote:
            self._tried(self._remote.clear)

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> Any:
        with self._one_budget():
            found = self.get(key, self._missing_key, version)
            if found is not self._missing_key:
                return found
            value = default() if callable(default) else default
            return self._put_or_get(key, value, timeout, version)

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        with self._one_budget():
            return int(super().incr_version(key, delta, version))

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> Any:
        found = await self.aget(key, self._missing_key, version)
        if found is not self._missing_key:
            return found
        value = default() if callable(default) else default
        return await self._aput_or_get(key, value, timeout, version)

    def _put_or_get(
        self, key: Any, value: Any, timeout: Timeout, version: int | None
    ) -> Any:
        with self._one_budget():
            self._add(self.make_key(key, version), pack(value), self._ttl(timeout))
            # Another may have been first.
            return self.get(key, value, version)

    aget = _apart("get")
    aget_many = _apart("get_many")
    ahas_key = _apart("has_key")
    aset = _apart("set")
    aset_many = _apart("set_many")
    aadd = _apart("add")
    aincr = _apart("incr")
    aincr_version = _apart("incr_version")
    atouch = _apart("touch")
    adelete = _apart("delete")
    adelete_many = _apart("delete_many")
    aclear = _apart("clear")
    _aput_or_get = _apart("_put_or_get")

    # --- Redis, or else memory

    def _one_budget(self) -> Any:
        return shared_budget(self._remote.budget_s if self._remote else math.inf)

    def _tried(self, ask: Any, *arguments: Any) -> Any:
        """Return Redis's answer, or None if memory has to answer."""
        try:
            return ask(*arguments)
        except Away:
            self._store.fallbacks += 1
            return None

    def _read(self, names: list[str]) -> dict[str, bytes | int]:
        found = self._tried(self._remote.read, names) if self._remote else None
        if found is None:
            copies = ((name, self._memory.get(name)) for name in names)
            return {name: copy for name, copy in copies if copy is not None}
        now = time.time()
        for name in names:
            if name not in found:
                self._memory.delete(name)
                continue
            value, end_ms = found[name]
            ttl = COPY_S if end_ms is None else min(COPY_S, end_ms / 1000 - now)
            self._memory.set(name, value, ttl)
        return {name: one.value for name, one in found.items()}

    def _remote_incr(
        self, name: str, delta: int, begins: bool, ttl: float | None
    ) -> int | None:
        if self._remote is None:
            raise Away
        try:
            count = self._remote.increment(
                name, delta, milliseconds(ttl) if begins else "none"
            )
        except Away:
            self._store.fallbacks += 1
            raise
        if count is not None:
            self._memory.set(name, count, ttl if begins else COPY_S)
        return count

    def _delete(self, names: list[str]) -> int:
        deleted = sum([self._memory.delete(name) for name in names])
        answer = self._tried(self._remote.delete, names) if self._remote else None
        return deleted if answer is None else int(answer)

    def _drop_poisoned(self, name: str) -> None:
        self._memory.delete(name)
        if self._remote:
            self._remote.drop_poisoned(name)

    def _ttl(self, timeout: Timeout) -> float | None:
        return self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout

    def _copy_ttl(self, ttl: float | None) -> float | None:
        if self._remote is None:
            return ttl
        return COPY_S if ttl is None else min(ttl, COPY_S)
