"""Store of cached responses: in process memory, in Redis, and in a cache on disk.

Memory holds what this process sends. Redis holds public responses for all machines;
fresh ones spare them the database. The disk holds those and private ones for the
processes of this machine. With PostgreSQL and Redis both unavailable, a reader still
gets what any process of the machine has sent within 24 hours, marked as stale.

Redis and disk are written behind the answer; what exceeds the queue is dropped. A
damaged database is replaced, and one that cannot be written costs nothing else.
Nothing that is read is ever unpickled.
"""

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

from diskcache_community import Cache, SafeDisk
from diskcache_community.core import MODE_RAW
from django.conf import settings
from django.core.cache import caches

from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import (
    Mark,
    invalidations,
    now,
    subscriber,
)
from resilient_site.edge.cache.keys import Key, PrivateKey, may_be_shared
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S

logger = logging.getLogger(__name__)

PROBATION_SHARE = 0.2
MAX_PENDING = 1_000
MAX_PENDING_BYTES = 16 * 1024 * 1024
WRITE_PERIOD_S = 0.2
# Of each of disk and Redis: stale responses are at most half a second late.
READ_TIMEOUT_S = 0.25
LOCK_TIMEOUT_S = 1
STOP_TIMEOUT_S = 5.0
# Redis has a fixed number of slots, and the last response of a slot stays: that bounds
# the room. So large is the average response there, and at most 16 times that.
SLOT_BYTES = 4 * 1024
MAX_REDIS_BYTES = 64 * 1024
NOT_EMPTY = "not-empty"
# When fewer fresh responses are found in Redis, only one in so many is looked up.
MIN_FOUND = 1 / 50
SAMPLE_EVERY = 16
# Of SQLite; the first is that there is no such table.
DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

type AnyKey = Key | PrivateKey
# What to write, or None to delete it; and whether it is for Redis as well as the disk.
type Pending = tuple[CachedResponse | None, bool]


class ResponseCache:
    """Responses in process memory, bounded by bytes.

    New ones share a small part of it until they are requested for a second time, so
    that a crawler or a flood of odd searches evicts nothing else.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = self._probation_bytes = 0
        self._probation: OrderedDict[Key, CachedResponse] = OrderedDict()
        self._proven: OrderedDict[Key, CachedResponse] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._proven)

    def get(self, key: Key) -> CachedResponse | None:
        if copy := self._proven.get(key):
            self._proven.move_to_end(key)
            return copy
        if copy := self._probation.pop(key, None):
            self._probation_bytes -= copy.size
            self._proven[key] = copy
        return copy

    def put(self, key: Key, copy: CachedResponse) -> bool:
        """Store it unless a later one is stored; return whether it is the latest."""
        is_proven = key in self._proven
        known = self._proven.get(key) or self._probation.get(key)
        if known and known.mark.at > copy.mark.at:
            return False
        self.delete(key)
        if copy.size > PROBATION_SHARE * self.max_bytes:
            return True
        self.bytes += copy.size
        if is_proven:
            self._proven[key] = copy
        else:
            self._probation[key] = copy
            self._probation_bytes += copy.size
        while self.bytes > self.max_bytes:
            on_probation = self._probation_bytes > PROBATION_SHARE * self.max_bytes
            is_odd = self._probation and (on_probation or not self._proven)
            self.delete(next(iter(self._probation if is_odd else self._proven)))
        return True

    def delete(self, key: Key) -> None:
        if old := self._probation.pop(key, None):
            self._probation_bytes -= old.size
        else:
            old = self._proven.pop(key, None)
        self.bytes -= old.size if old else 0


class BytesDisk(SafeDisk):
    """Storage of diskcache that holds bytes within the database, and nothing else."""

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> Any:
        if mode != MODE_RAW or not isinstance(value, bytes):
            raise ValueError("The entry is not of this store.")
        return value


class ResponseStore:
    """The three tiers. What has a `PrivateKey` is on disk alone."""

    def __init__(
        self, folder: Path, memory_bytes: int, redis_bytes: int, disk_bytes: int
    ) -> None:
        self.folder, self.max_disk_bytes = folder, disk_bytes
        self.memory = ResponseCache(memory_bytes)
        self.slots = redis_bytes // SLOT_BYTES
        self.reads = 0  # under way
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="stale-reader")
        self._lookups, self._found_share = 0, 1.0
        self._pending: dict[AnyKey, Pending] = {}
        self._pending_bytes = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._writer: threading.Thread | None = None
        # Of the database on disk: its inode before it was opened, and the open cache.
        self._opened: tuple[int, Cache] | None = None
        self._is_failing = False

    @cached_property
    def _redis(self) -> Any:
        """The cache of public responses in Redis; None without one.

        One object for all threads: Django would make one for each task of asyncio.
        """
        made: Any = caches.create_connection("responses")
        return made if self.slots and made.is_shared else None

    def start(self) -> None:
        # Made here: a thread made before a fork counts as ended after it.
        self._writer = threading.Thread(
            target=self._write_periodically, name="stale-writer", daemon=True
        )
        self._writer.start()

    def stop(self) -> None:
        """Write what is pending, unless the disk does not answer."""
        self._ending.set()
        if self._writer:
            self._writer.join(STOP_TIMEOUT_S)

    def put(self, key: AnyKey, response: CachedResponse) -> None:
        """Store the response, unless a later one is in memory."""
        if isinstance(key, PrivateKey) or self.memory.put(key, response):
            self._add_pending(key, response, is_for_redis=isinstance(key, Key))

    def delete(self, key: AnyKey) -> None:
        if isinstance(key, Key):
            self.memory.delete(key)
        self._add_pending(key, None, is_for_redis=isinstance(key, Key))

    async def find_fresh_in_redis(self, key: Key) -> CachedResponse | None:
        """Return the response that another process has fetched, if it is fresh.

        Reads that are spread evenly over many items find next to none there, and a
        look-up costs as much as a query: most are left out then.
        """
        self._lookups += 1
        is_in_vain = self._found_share < MIN_FOUND and self._lookups % SAMPLE_EVERY
        if is_in_vain or self._redis is None or self._redis.is_degraded:
            return None
        if key in self._pending:
            return None  # it may have been deleted here
        found = await self._in_thread(self._read_redis, key)
        is_found = (
            found is not None
            and key not in self._pending  # deleted meanwhile
            and found.is_fresh()
            and may_be_shared(found, key)
            and self.memory.put(key, found)
        )
        self._found_share += (is_found - self._found_share) * MIN_FOUND
        if not is_found:
            return None
        self._add_pending(key, found, is_for_redis=False)
        return found

    async def find_stale(
        self, key: AnyKey, in_memory_only: bool = False
    ) -> CachedResponse | None:
        """Return the response however old it is: from memory, disk, or else Redis."""
        if isinstance(key, Key) and (found := self.memory.get(key)):
            return found
        if pending := self._pending.get(key):
            return pending[0]
        if in_memory_only:
            return None
        found = await self._in_thread(self._read_disk, key)
        is_on_disk = found is not None
        if not is_on_disk and isinstance(key, Key):
            found = await self._in_thread(self._read_redis, key)
        if pending := self._pending.get(key):
            return pending[0]  # stored or deleted meanwhile
        if found and isinstance(key, Key):
            self.memory.put(key, found)  # with its age
            if not is_on_disk:
                self._add_pending(key, found, is_for_redis=False)
        return found

    def is_empty(self) -> bool:
        """Return whether there is nothing to show; waits for disk and Redis."""
        is_here = self.memory or self.count()
        return not is_here and not (self._redis and self._redis.has_key(NOT_EMPTY))

    def count(self) -> int:
        """Return the number of responses on disk."""
        return self._attempt(len) or 0

    def size(self) -> int:
        """Return the bytes of the database on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("cache.db*"))

    # --- reading

    async def _in_thread[K](
        self, read: Callable[[K], CachedResponse | None], key: K
    ) -> CachedResponse | None:
        found = asyncio.get_running_loop().run_in_executor(self._readers, read, key)
        self.reads += 1
        try:
            return await asyncio.wait_for(found, READ_TIMEOUT_S)
        except TimeoutError:
            return None
        finally:
            self.reads -= 1

    def _read_disk(self, key: AnyKey) -> CachedResponse | None:
        name = repr(key)
        data = self._attempt(lambda disk: disk.get(name))
        return CachedResponse.decode(name, data, time.time()) if data else None

    def _read_redis(self, key: Key) -> CachedResponse | None:
        if self._redis is None:
            return None
        moment, name = now(), repr(key)
        data, clock_s = self._redis.get_with_time(self._slot(name))
        if not isinstance(data, str) or clock_s is None:
            return None
        encoded = data.encode("latin-1", "replace")
        found = CachedResponse.decode(name, encoded, clock_s, moment)
        if found and not subscriber.was_subscribed_at(found.mark.at):
            # A change of what it shows may have been missed here: it is outdated.
            return replace(found, mark=Mark(0, found.mark.slots))
        return found

    # --- writing

    def _add_pending(
        self, key: AnyKey, response: CachedResponse | None, is_for_redis: bool
    ) -> None:
        size = response.size if response else 0
        # What does not hold any more matters more than what does.
        most = MAX_PENDING if response else 10 * MAX_PENDING
        with self._lock:
            if len(self._pending) < most and (
                self._pending_bytes + size <= MAX_PENDING_BYTES
            ):
                self._pending[key] = response, is_for_redis
                self._pending_bytes += size

    def _write_periodically(self) -> None:
        while not self._ending.wait(WRITE_PERIOD_S):
            self.write_pending()
        self.write_pending()

    def write_pending(self) -> None:
        with self._lock:
            pending, self._pending, self._pending_bytes = self._pending, {}, 0
        public = {
            repr(k): r for k, (r, is_for_redis) in pending.items() if is_for_redis
        }
        if public and self._redis:
            self._write_redis(public)
        if pending:
            self._attempt(lambda disk: _write_disk(disk, pending))

    def _slot(self, name: str) -> str:
        return f"response:{crc32(name.encode()) % self.slots}"

    def _write_redis(self, public: dict[str, CachedResponse | None]) -> None:
        self._redis.delete_many(
            [self._slot(name) for name in public if not public[name]]
        )
        # Clocks of machines differ: ages are counted by the clock of Redis.
        _, clock_s = self._redis.get_with_time(NOT_EMPTY)
        if clock_s is None:
            return
        stored: dict[str, object] = {}
        for name, response in public.items():
            # What was changed while it waited would replace what is newer.
            if (
                response
                and response.size <= MAX_REDIS_BYTES
                and invalidations.is_current(response.mark)
            ):
                data = response.encode(name, clock_s)
                stored[self._slot(name)] = data.decode("latin-1")
        if stored:
            self._redis.set_many({NOT_EMPTY: 1, **stored}, STALE_IF_ERROR_S)

    # --- the database on disk

    def _attempt[T](self, use: Callable[[Cache], T]) -> T | None:
        """Return what `use` returns, or None. Replaces a database that is damaged."""
        if not self.max_disk_bytes:
            return None
        try:
            done = use(self._open())
            self._is_failing = False
            return done
        except Exception as error:  # noqa: BLE001 - to lose this store costs nothing else
            if not self._is_failing:
                logger.warning("The stale store on disk is unavailable: %s", error)
            self._is_failing = True
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
                shutil.rmtree(self.folder, ignore_errors=True)
            return None

    def _open(self) -> Cache:
        """Return the cache on disk, opened anew if its files were replaced."""
        database = self.folder / "cache.db"
        inode = database.stat().st_ino if database.exists() else 0
        if not inode or self._opened is None or self._opened[0] != inode:
            cache = Cache(
                self.folder,
                timeout=LOCK_TIMEOUT_S,
                disk=BytesDisk,
                disk_min_file_size=2**31,
                eviction_policy="least-recently-stored",
                size_limit=self.max_disk_bytes,
                sqlite_synchronous=0,
            )
            self._opened = inode, cache
        return self._opened[1]


def _write_disk(disk: Cache, entries: dict[AnyKey, Pending]) -> None:
    with disk.transact():
        for key, (response, _) in entries.items():
            name = repr(key)
            if response is None:
                disk.delete(name)
            else:
                data = response.encode(name, time.time())
                disk.set(name, data, STALE_IF_ERROR_S)


response_store = ResponseStore(
    settings.DATA_DIR / "stale-responses",
    settings.READ_CACHE_BYTES,
    settings.LAST_KNOWN_REDIS_BYTES,
    settings.LAST_KNOWN_BYTES,
)
