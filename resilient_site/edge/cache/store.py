"""Store of cached responses: in process memory, in Redis, and in a cache on disk.

Memory holds what this process sends. Redis holds responses for all machines; fresh
ones, which are public, spare them the database. The disk holds them for the processes
of this machine. With PostgreSQL unavailable, a reader gets what any machine has sent
within 24 hours, marked as stale; with Redis unavailable too, what this machine has.

Disk and Redis are written behind the answer; what exceeds the queue is dropped. While
a process that hangs has the database on disk locked, what is for it waits. A damaged
database is replaced, and one that cannot be written costs nothing else.
"""

import asyncio
import logging
import shutil
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from diskcache_community import Cache, SafeDisk
from django.conf import settings
from django.core.cache import caches

from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.daemon_threads import DaemonThreads
from resilient_site.edge.cache.gathering import Gatherer
from resilient_site.edge.cache.invalidation import (
    EVERYTHING,
    VOID,
    Mark,
    invalidations,
    now,
    subscriber,
)
from resilient_site.edge.cache.keys import Key, PrivateKey, may_be_shared
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S

logger = logging.getLogger(__name__)

# Of the memory: no response takes more of it.
MAX_SHARE = 0.2
# Of what is to be written; deletions, which matter more, may double it.
MAX_PENDING_BYTES = 16 * 1024 * 1024
DELETION_BYTES = 1024
WRITE_PERIOD_S = 0.2
# Small against the time for which they are usable.
WRITTEN_EVERY_S = 600
LOCK_TIMEOUT_S = 1
# Redis has a fixed number of slots, and the last response of a slot stays: that bounds
# the room. So large is the average response there, and at most 16 times that.
SLOT_BYTES = 4 * 1024
# Private ones have one slot in so many: there may be many more of them.
PRIVATE_SHARE = 4
MAX_REDIS_BYTES = 64 * 1024
NOT_EMPTY = "not-empty"
# In an overload no more are under way: to search in vain costs more than a rejection.
OVERLOAD_READS = 4
# When fewer fresh responses are found in Redis, only one in so many is looked up.
MIN_FOUND = 1 / 50
SAMPLE_EVERY = 16
# Of SQLite; the first is that there is no such table.
DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

type AnyKey = Key | PrivateKey
type Asked = tuple[AnyKey, asyncio.Future[CachedResponse | None]]


class Change(NamedTuple):
    """A response to write, or None to delete it; what Redis has is for the disk."""

    response: CachedResponse | None
    is_for_redis: bool = True

    @property
    def size(self) -> int:
        return self.response.size if self.response else DELETION_BYTES


class ResponseCache:
    """Responses in process memory, bounded by bytes: the least recently used go."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._responses: OrderedDict[Key, CachedResponse] = OrderedDict()

    def __len__(self) -> int:
        return len(self._responses)

    def get(self, key: Key) -> CachedResponse | None:
        if copy := self._responses.get(key):
            self._responses.move_to_end(key)
        return copy

    def put(self, key: Key, copy: CachedResponse) -> bool:
        """Store it unless a later one is stored; return whether it is the latest."""
        known = self._responses.get(key)
        if known and known.mark.at > copy.mark.at:
            return False
        self.delete(key)
        if copy.size <= MAX_SHARE * self.max_bytes:
            self._responses[key] = copy
            self.bytes += copy.size
            while self.bytes > self.max_bytes:
                self.delete(next(iter(self._responses)))
        return True

    def delete(self, key: Key) -> None:
        if old := self._responses.pop(key, None):
            self.bytes -= old.size


class ResponseStore:
    """The three tiers. What has a `PrivateKey` is not in memory."""

    def __init__(
        self, folder: Path, memory_bytes: int, redis_bytes: int, disk_bytes: int
    ) -> None:
        self.folder, self.max_disk_bytes = folder, disk_bytes
        self.memory = ResponseCache(memory_bytes)
        self.slots = redis_bytes // SLOT_BYTES
        self.reads = 0  # under way
        self._disk_readers = DaemonThreads(4, "stale-disk-reader")
        self._redis_readers = DaemonThreads(4, "stale-redis-reader")
        self._asked = Gatherer[Asked](self._read_group)
        self._writer = DaemonThreads(1, "stale-writer")
        self._pending: dict[AnyKey, Change] = {}
        self._writing: dict[AnyKey, Change] = {}
        self._pending_bytes = 0
        self._lookups, self._found_share = 0, 1.0
        # Of the database on disk: its inode before it was opened, and the open cache.
        self._opened: tuple[int, Cache] | None = None
        self._is_failing = False
        # Of the database that the responses are of; "" until that is known.
        self._epoch, self._epoch_file = "", folder.with_name("epoch")

    @cached_property
    def _redis(self) -> Any:
        """The cache of responses in Redis; None without one.

        One object for all threads: Django would make one for each task of asyncio.
        """
        made: Any = caches.create_connection("responses")
        return made if self.slots and made.is_shared else None

    async def write_behind(self) -> None:
        while True:
            await asyncio.sleep(WRITE_PERIOD_S)
            if self._pending or self._writing:
                try:
                    await asyncio.wrap_future(self.flush())
                except Exception as error:  # noqa: BLE001 - the next ones may do better
                    self._writing = {}
                    logger.warning("Responses could not be written: %s", error)

    def flush(self) -> Future[None]:
        """Have written what is pending, and what was not as the disk was locked."""
        if sum(change.size for change in self._writing.values()) > MAX_PENDING_BYTES:
            self._writing = {}
        self._writing = self._writing | self._pending
        self._pending, self._pending_bytes = {}, 0
        return self._writer.submit(self._write, self._writing)

    def put(self, key: AnyKey, response: CachedResponse) -> None:
        """Store the response, unless a later one is in memory."""
        if response.mark.at <= invalidations.voided_at:
            return  # read from what the database was before
        if isinstance(key, PrivateKey) or self.memory.put(key, response):
            self._write_later(key, Change(response))

    def renew(self, key: Key, response: CachedResponse) -> None:
        """Do the same; what is as before is written out again only now and then.

        To write out a small response takes longer than to fetch it with many others.
        """
        known = self.memory.get(key)
        if (
            known
            and (known.status, known.body) == (response.status, response.body)
            and response.stored - known.written < WRITTEN_EVERY_S
            and response.mark.at > invalidations.voided_at
        ):
            self.memory.put(key, replace(response, written=known.written))
        else:
            self.put(key, response)

    def delete(self, key: AnyKey) -> None:
        if isinstance(key, Key):
            self.memory.delete(key)
        self._write_later(key, Change(None))

    async def find_fresh_in_redis(self, key: Key) -> CachedResponse | None:
        """Return the response that another process has fetched, if it is fresh.

        Most look-ups are left out where they find next to none: each costs as much as a
        query.
        """
        self._lookups += 1
        is_in_vain = self._found_share < MIN_FOUND and self._lookups % SAMPLE_EVERY
        if is_in_vain or self._redis is None or self._unwritten(key):
            return None
        pending = self._pending
        found = await self._find_in_redis(key)
        if not (found and found.is_fresh() and may_be_shared(found, key)):
            found = None
        self._found_share += ((found is not None) - self._found_share) * MIN_FOUND
        if found is None or self._unwritten(key):  # deleted meanwhile
            return None
        if pending is self._pending:  # or its deletion may be written already
            self._put_found(key, found)
        return found

    async def find_stale(
        self, key: AnyKey, in_memory_only: bool = False, in_redis: bool = True
    ) -> CachedResponse | None:
        """Return the response however old it is: from memory, disk, or else Redis."""
        found = self.memory.get(key) if isinstance(key, Key) else None
        unwritten = self._unwritten(key)
        if found or unwritten or in_memory_only:
            return found or (unwritten.response if unwritten else None)
        pending = self._pending
        read = asyncio.wrap_future(self._disk_readers.submit(self._read_disk, key))
        found = await self._within_time(read)
        is_on_disk = found is not None
        if not is_on_disk and in_redis:
            found = await self._find_in_redis(key)
        if unwritten := self._unwritten(key):
            return unwritten.response  # stored or deleted meanwhile
        if found and isinstance(key, Key) and pending is self._pending:
            self._put_found(key, found, is_on_disk)  # with its age
        return found

    def is_busy(self) -> bool:
        """Return whether nothing but memory should be searched in an overload."""
        return self.reads >= OVERLOAD_READS

    def is_empty(self) -> bool:
        """Return whether there is nothing to show; waits for disk and Redis."""
        is_here = self.memory or self.disk_usage()[0]
        return not is_here and not (self._redis and self._redis.has_key(NOT_EMPTY))

    def disk_usage(self) -> tuple[int, int]:
        """Return the number of responses on disk, and the bytes they take."""
        return self._on_disk(lambda disk: (len(disk), disk.volume())) or (0, 0)

    def follow_epoch(self, epoch: str) -> None:
        """Void all responses if they are of another epoch of the database.

        A file says of which epoch those on disk are, for a process that starts; and
        whether they are of a private site, where no one may see what was public.
        """
        if not epoch:
            return
        epoch += "" if settings.PUBLIC_READ else " private"
        if epoch == self._epoch:
            return
        known = self._epoch
        with suppress(OSError):
            known = known or self._epoch_file.read_text()
        if known not in ("", epoch):
            self.void()
        self._epoch = epoch
        with suppress(OSError):  # a process that finds another one voids once more
            self._epoch_file.write_text(epoch)

    def void(self) -> None:
        """Void all responses on this machine, and delete them on disk and in Redis."""
        invalidations.record([VOID, EVERYTHING])
        self.memory = ResponseCache(self.memory.max_bytes)
        self._writer.submit(self._delete_all).result()

    def _delete_all(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._redis:
            with suppress(Exception):  # what stays there is void on this machine
                self._redis.delete_pattern("response:*", itersize=1000)
                self._redis.delete(NOT_EMPTY)

    # --- reading

    async def _find_in_redis(self, key: AnyKey) -> CachedResponse | None:
        found = asyncio.get_running_loop().create_future()
        self._asked.add((key, found))
        return await self._within_time(found)

    async def _read_group(self, asked: Sequence[Asked]) -> None:
        keys = [key for key, _ in asked]
        read = asyncio.wrap_future(self._redis_readers.submit(self._read_redis, keys))
        found = await self._within_time(read) or {}
        for key, future in asked:
            if not future.done():
                future.set_result(found.get(key))

    async def _within_time[T](self, read: asyncio.Future[T]) -> T | None:
        self.reads += 1
        try:
            return await asyncio.wait_for(read, settings.LAST_KNOWN_TIMEOUT_S)
        except TimeoutError:
            return None
        finally:
            self.reads -= 1

    def _read_disk(self, key: AnyKey) -> CachedResponse | None:
        name = repr(key)
        data = self._on_disk(lambda disk: disk.get(name))
        return CachedResponse.decode(name, data, time.time(), 0) if data else None

    def _read_redis(self, keys: Sequence[AnyKey]) -> dict[AnyKey, CachedResponse]:
        if self._redis is None:
            return {}
        moment, names = now(), {key: repr(key) for key in keys}
        slots = {key: self._slot(key) for key in keys}
        values, clock_s = self._redis.get_many_with_time([*slots.values()])
        found: dict[AnyKey, CachedResponse] = {}
        for key, name in names.items():
            data = values.get(slots[key])
            if not isinstance(data, str) or clock_s is None:
                continue
            encoded = data.encode("latin-1", "replace")
            response = CachedResponse.decode(name, encoded, clock_s, moment)
            if response and not subscriber.was_subscribed_at(response.mark.at):
                # A change of what it shows may have been missed here: it is outdated.
                response = replace(response, mark=Mark(0, response.mark.slots))
            if response:
                found[key] = response
        return found

    # --- writing

    def _unwritten(self, key: AnyKey) -> Change | None:
        return self._pending.get(key) or self._writing.get(key)

    def _put_found(
        self, key: Key, response: CachedResponse, is_on_disk: bool = False
    ) -> None:
        if self.memory.put(key, response) and not is_on_disk:
            self._write_later(key, Change(response, is_for_redis=False))

    def _write_later(self, key: AnyKey, change: Change) -> None:
        room = MAX_PENDING_BYTES if change.response else 2 * MAX_PENDING_BYTES
        if self._pending_bytes + change.size <= room:
            self._pending[key] = change
            self._pending_bytes += change.size

    def _write(self, changes: Mapping[AnyKey, Change]) -> None:
        is_on_disk = self._write_disk(changes)
        for_redis = {
            key: change.response
            for key, change in changes.items()
            if change.is_for_redis
        }
        if for_redis and self._redis:
            self._write_redis(for_redis)
        if self._writing is changes:
            left = {} if is_on_disk else changes
            self._writing = {
                key: change._replace(is_for_redis=False) for key, change in left.items()
            }

    def _slot(self, key: AnyKey) -> str:
        check = crc32(repr(key).encode())
        if isinstance(key, PrivateKey):
            return f"response:private:{check % max(self.slots // PRIVATE_SHARE, 1)}"
        return f"response:{check % self.slots}"

    def _write_redis(self, responses: Mapping[AnyKey, CachedResponse | None]) -> None:
        deleted = [self._slot(key) for key, one in responses.items() if one is None]
        self._redis.delete_many(deleted)
        # Clocks of machines differ: ages are counted by the clock of Redis.
        _, clock_s = self._redis.get_many_with_time([NOT_EMPTY])
        if clock_s is None:
            return
        stored: dict[str, str | int] = {}
        for key, one in responses.items():
            if not one or one.size > MAX_REDIS_BYTES or not one.is_usable_if_error():
                continue
            is_current = invalidations.is_current(one.mark)
            kept = one if is_current else one.as_stale()
            data = kept.encode(repr(key), clock_s).decode("latin-1")
            if is_current:
                stored[self._slot(key)] = data
            elif isinstance(key, Key):
                # It was changed while it waited: what is there may be newer, but
                # nothing would be worse in an outage.
                self._redis.add(self._slot(key), data, STALE_IF_ERROR_S)
        if stored:
            self._redis.set_many({NOT_EMPTY: 1, **stored}, STALE_IF_ERROR_S)

    def _write_disk(self, changes: Mapping[AnyKey, Change]) -> bool:
        """Write what can be written; return False if all has to wait for a lock."""
        is_locked = False

        def write(disk: Cache) -> None:
            nonlocal is_locked
            is_locked = True
            with disk.transact():
                is_locked = False
                for key, (response, _) in changes.items():
                    name = repr(key)
                    if response is None or not response.is_usable_if_error():
                        disk.delete(name)
                    else:
                        data = response.encode(name, time.time())
                        disk.set(name, data, STALE_IF_ERROR_S)

        if changes:
            self._on_disk(write)
        return not is_locked

    # --- the database on disk

    def _on_disk[T](self, use: Callable[[Cache], T]) -> T | None:
        """Return what `use` returns, or None. Replaces a database that is damaged."""
        if not self.max_disk_bytes:
            return None
        try:
            done = use(self._open())
            self._is_failing = False
            return done
        except Exception as error:  # noqa: BLE001 - to lose this store costs nothing else
            if not self._is_failing:
                logger.warning("The stale store on disk is unavailable: %r", error)
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
                disk=SafeDisk,
                disk_min_file_size=2**31,
                eviction_policy="least-recently-stored",
                size_limit=self.max_disk_bytes,
                sqlite_synchronous=0,
            )
            self._opened = inode, cache
        return self._opened[1]


response_store = ResponseStore(
    settings.DATA_DIR / "stale-responses",
    settings.READ_CACHE_BYTES,
    settings.LAST_KNOWN_REDIS_BYTES,
    settings.LAST_KNOWN_BYTES,
)
