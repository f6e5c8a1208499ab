"""Stale store: sent responses, kept in Redis and on disk for when the origin fails.

Redis holds public responses for all machines; fresh ones spare them the database. The
disk holds those and private ones for the processes of this machine. With PostgreSQL
and Redis both unavailable, a reader still gets what any process of the machine has
sent within 24 hours, marked as stale.

Writes are behind the answer; what exceeds the queue is dropped. A damaged database is
replaced, and one that cannot be written costs nothing else. Nothing that is read is
ever unpickled.
"""

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from diskcache_community import Cache, SafeDisk
from diskcache_community.core import MODE_RAW
from django.conf import settings
from django.core.cache import caches

from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import Mark, invalidations, now
from resilient_site.edge.cache.invalidation_pubsub import subscriber
from resilient_site.edge.cache.response_codec import decode, encode
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S

logger = logging.getLogger(__name__)

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
# Of SQLite; the first is that there is no such table.
DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


# What to store, or None to delete it; and whether it is public.
type Entry = tuple[CachedResponse | None, bool]


class BytesDisk(SafeDisk):
    """Storage of diskcache that holds bytes within the database, and nothing else."""

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> Any:
        if mode != MODE_RAW or not isinstance(value, bytes):
            raise ValueError("The entry is not of this store.")
        return value


class StaleStore:
    def __init__(self, folder: Path, max_bytes: int, max_redis_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.slots = max_redis_bytes // SLOT_BYTES
        self._pending: dict[str, Entry] = {}
        self._pending_bytes = 0
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._open_lock = threading.Lock()
        self._disk: Cache | None = None
        self._inode = 0
        self.reads = 0  # under way
        self._is_failing = False

    def start(self) -> None:
        self._ending.clear()
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="stale-reader")
        self._writer = threading.Thread(
            target=self._write_periodically, name="stale-writer", daemon=True
        )
        self._writer.start()

    def stop(self) -> None:
        """Write what is pending, unless the disk does not answer."""
        self._ending.set()
        if self._writer:
            self._writer.join(STOP_TIMEOUT_S)
        if self._readers:
            self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer = self._readers = None

    def put(self, key: str, response: CachedResponse, *, is_public: bool) -> None:
        """Store the response soon; drop it when too much is pending."""
        self._add_pending(key, response, is_public)

    def delete(self, key: str, *, is_public: bool) -> None:
        self._add_pending(key, None, is_public)

    async def get(self, key: str, *, is_public: bool) -> CachedResponse | None:
        """Return the response on disk, or else in Redis, however old it is."""
        found = await self._in_reader(self._read_disk, key)
        return found or (await self.get_from_redis(key) if is_public else None)

    async def get_from_redis(self, key: str) -> CachedResponse | None:
        if not self.slots or not _redis().is_shared or _redis().is_degraded:
            return None
        return await self._in_reader(self._read_redis, key)

    def is_empty(self) -> bool:
        """Return whether there is nothing to show; waits for disk and Redis."""
        return not self.count() and not _redis().has_key(NOT_EMPTY)

    def count(self) -> int:
        return self._attempt(len) or 0

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("cache.db*"))

    async def _in_reader(
        self, read: Callable[[str], CachedResponse | None], key: str
    ) -> CachedResponse | None:
        if self._readers is None:
            return None
        found = asyncio.get_running_loop().run_in_executor(self._readers, read, key)
        self.reads += 1
        try:
            return await asyncio.wait_for(found, READ_TIMEOUT_S)
        except TimeoutError:
            return None
        finally:
            self.reads -= 1

    # --- writing

    def _add_pending(
        self, key: str, response: CachedResponse | None, is_public: bool
    ) -> None:
        size = response.size if response else 0
        # What does not hold any more matters more than what does.
        most = MAX_PENDING if response else 10 * MAX_PENDING
        with self._lock:
            if len(self._pending) < most and (
                self._pending_bytes + size <= MAX_PENDING_BYTES
            ):
                self._pending[key] = response, is_public
                self._pending_bytes += size

    def _write_periodically(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ending.wait(WRITE_PERIOD_S)
            with self._lock:
                pending, self._pending, self._pending_bytes = self._pending, {}, 0
            public = {
                key: response
                for key, (response, is_public) in pending.items()
                # What was changed while it waited would replace what is newer.
                if is_public
                and (response is None or invalidations.is_current(response.mark))
            }
            if public and self.slots and _redis().is_shared:
                self._write_redis(public)
            if pending:
                self._attempt(partial(_write_disk, entries=pending))

    def _write_redis(self, entries: dict[str, CachedResponse | None]) -> None:
        deleted = [self._slot(key) for key, response in entries.items() if not response]
        _redis().delete_many(deleted)
        # Clocks of machines differ: ages are counted by the clock of Redis.
        _, clock_s = _redis().get_with_time(NOT_EMPTY)
        if clock_s is None or len(deleted) == len(entries):
            return
        stored: dict[str, object] = {NOT_EMPTY: 1}
        for key, response in entries.items():
            if response and response.size <= MAX_REDIS_BYTES:
                data = encode(key, response, clock_s)
                stored[self._slot(key)] = data.decode("latin-1")
        _redis().set_many(stored, STALE_IF_ERROR_S)

    def _slot(self, key: str) -> str:
        return f"response:{crc32(key.encode()) % self.slots}"

    # --- reading

    def _read_disk(self, key: str) -> CachedResponse | None:
        data = self._attempt(lambda disk: disk.get(key))
        return decode(key, data, time.time()) if data else None

    def _read_redis(self, key: str) -> CachedResponse | None:
        moment = now()
        data, clock_s = _redis().get_with_time(self._slot(key))
        if not isinstance(data, str) or clock_s is None:
            return None
        found = decode(key, data.encode("latin-1", "replace"), clock_s, moment)
        if found and not subscriber.was_subscribed_at(found.mark.at):
            # A change of what it shows may have been missed here: it is outdated.
            return replace(found, mark=Mark(0, found.mark.slots))
        return found

    # --- the database on disk

    def _attempt[T](self, use: Callable[[Cache], T]) -> T | None:
        """Return what `use` returns, or None. Replaces a database that is damaged."""
        if not self.max_bytes:
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
        with self._open_lock:
            if self._disk is None or _inode(database) != self._inode:
                self._disk = Cache(
                    self.folder,
                    timeout=LOCK_TIMEOUT_S,
                    disk=BytesDisk,
                    disk_min_file_size=2**31,
                    eviction_policy="least-recently-stored",
                    size_limit=self.max_bytes,
                    sqlite_synchronous=0,
                )
                self._inode = _inode(database)
            return self._disk


def _write_disk(disk: Cache, entries: dict[str, Entry]) -> None:
    with disk.transact():
        for key, (response, _) in entries.items():
            if response is None:
                disk.delete(key)
            else:
                disk.set(key, encode(key, response, time.time()), STALE_IF_ERROR_S)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _redis() -> Any:
    """Return the cache of public responses; each thread has one of its own."""
    return caches["responses"]


stale_store = StaleStore(
    settings.DATA_DIR / "stale-responses",
    settings.LAST_KNOWN_BYTES,
    settings.LAST_KNOWN_REDIS_BYTES,
)
