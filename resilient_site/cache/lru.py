"""What a process remembers: the least recently used goes first, counted in bytes."""

import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

# The entry, its slot in the dictionary, and the number that says when it ends.
OVERHEAD_BYTES = 250


@dataclass(slots=True)
class Entry:
    value: bytes | int
    ends: float | None
    size: int


class Memory:
    """Values (bytes, or whole numbers that can be counted up) with an end.

    Every method is one step for all threads. A `ttl` is in seconds; None is for ever.
    """

    def __init__(
        self, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        _instances.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> bytes | int | None:
        with self._lock:
            entry = self._alive(key)
            return None if entry is None else entry.value

    def set(self, key: str, value: bytes | int, ttl: float | None) -> None:
        with self._lock:
            self._put(key, value, self._end(ttl))

    def add(self, key: str, value: bytes | int, ttl: float | None) -> bool:
        with self._lock:
            if self._alive(key) is not None:
                return False
            self._put(key, value, self._end(ttl))
            return True

    def incr(self, key: str, delta: int) -> int | None:
        """Return the new number; None if there is none. Its end stays."""
        with self._lock:
            entry = self._alive(key)
            if entry is None or isinstance(entry.value, bytes):
                return None
            count = entry.value + delta
            self._put(key, count, entry.ends)
            return count

    def touch(self, key: str, ttl: float | None) -> bool:
        with self._lock:
            entry = self._alive(key)
            if entry is not None:
                entry.ends = self._end(ttl)
            return entry is not None

    def delete(self, key: str) -> bool:
        with self._lock:
            alive = self._alive(key) is not None
            self._drop(key)
            return alive

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    # --- under the lock

    def _end(self, ttl: float | None) -> float | None:
        return None if ttl is None else self._clock() + ttl

    def _alive(self, key: str) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.ends is not None and entry.ends <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _put(self, key: str, value: bytes | int, ends: float | None) -> None:
        self._drop(key)
        size = sys.getsizeof(key) + sys.getsizeof(value) + OVERHEAD_BYTES
        if size > self.max_bytes:
            return
        while self.bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = Entry(value, ends, size)
        self.bytes += size

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size


_instances: weakref.WeakSet[Memory] = weakref.WeakSet()


class Held(NamedTuple):
    bytes: int
    entries: int
    most_bytes: int


def held() -> Held:
    """Return what all of this process hold together."""
    each = [(m.bytes, len(m), m.max_bytes) for m in list(_instances)]
    return Held(*map(sum, zip(*each, strict=True))) if each else Held(0, 0, 0)


def _unlock_in_child() -> None:
    # A change may have been under way in another thread of the parent.
    for memory in _instances:
        memory._lock = threading.Lock()
        memory.clear()


os.register_at_fork(after_in_child=_unlock_in_child)
