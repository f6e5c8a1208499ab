"""The last known answers of all machines, in Redis, for one that knows none itself.

Who begins to serve while the database is away shows what others have shown. Only what
is the same for everybody is kept here, signed, so that nobody who merely reaches Redis
decides what people see. A copy has one of a fixed number of places, which is that of
others too, and the last one to come stays: so the room is bounded, and nothing counted.

Written behind the answers, and always through the breaker of the cache. Nobody takes
out what has changed since. So a copy from here is outdated from the start: it is shown
when there is nothing else at all, and says how old it is.
"""

import asyncio
import logging
import threading
import time
import zlib
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from django.core.cache import caches
from django.utils.crypto import constant_time_compare, salted_hmac

from resilient_site.edge.cache.cached_response import Copy
from resilient_site.edge.cache.disk_stale_store import AGAIN_S, NOTED_MAX, dump, load
from resilient_site.edge.cache.invalidation import Mark, generations
from resilient_site.resilience.bounded_dict import Latest
from resilient_site.resilience.cache_control import STALE_IF_ERROR_S

logger = logging.getLogger(__name__)

PLACE_BYTES = 32 * 1024
# Text is packed to a fifth or less.
COPY_MAX_BYTES = 4 * PLACE_BYTES
WAITING_MAX = 100
TIMEOUT_S = 0.2
STOP_S = 1.0
# A flood of odd searches is not for Redis, and not for the processor. The pause after
# each is so many times as long as that took: least is done when there is much to do.
PAUSE_TIMES = 20
PAUSE_MIN_S, PAUSE_MAX_S = 0.01, 0.2
IS_ANYTHING = "last-known:any"
SIGNATURE_BYTES = 32
PACKING = zlib.Z_BEST_SPEED

type Entry = tuple[str, Copy | None]


class Distant:
    def __init__(self, max_bytes: int) -> None:
        self.places = max_bytes // PLACE_BYTES
        self._waiting: dict[str, Copy | None] = {}  # of one key the last word counts
        self._changed = threading.Condition()
        self._kept = Latest[str, tuple[int, float]](NOTED_MAX, "Noted as sent to Redis")
        self._ending = threading.Event()
        self._readers: ThreadPoolExecutor | None = None
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        if not self.places or not cache().is_shared:
            return
        self._ending.clear()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="distant-reader")
        self._writer = threading.Thread(
            target=self._write, name="distant-writer", daemon=True
        )
        self._writer.start()

    def stop(self) -> None:
        """Write what is left, if that takes no long time."""
        self._ending.set()
        if self._writer:
            with self._changed:
                self._changed.notify()
            self._writer.join(STOP_S)
        if self._readers:
            self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer = self._readers = None

    def keep(self, key: str, copy: Copy) -> None:
        """Keep a shared copy soon; when there is too much to write, it is not kept."""
        digest, now = hash(copy.body), time.monotonic()
        last = self._kept.get(key)
        if last and last[0] == digest and now - last[1] < AGAIN_S:
            return
        if copy.fresh_s and copy.size <= COPY_MAX_BYTES and self._put(key, copy):
            self._kept[key] = digest, now

    def forget(self, key: str) -> None:
        """Keep it no longer: it does not hold any more."""
        self._kept.pop(key, None)
        self._put(key, None)

    async def get(self, key: str) -> Copy | None:
        if self._readers is None:
            return None
        loop = asyncio.get_running_loop()
        found = loop.run_in_executor(self._readers, self._read, key)
        with suppress(TimeoutError):
            return await asyncio.wait_for(found, TIMEOUT_S)
        return None

    def is_empty(self) -> bool:
        """Tell whether there is nothing to show; waits for Redis."""
        return self._readers is None or not cache().has_key(IS_ANYTHING)

    def _put(self, key: str, copy: Copy | None) -> bool:
        if self._writer is None:
            return False
        with self._changed:
            self._waiting.pop(key, None)
            if len(self._waiting) >= WAITING_MAX and (copy or not self._drop_a_copy()):
                return False
            self._waiting[key] = copy
            self._changed.notify()
        return True

    def _drop_a_copy(self) -> bool:
        """Make room for what is to be forgotten, which matters more."""
        for key, copy in self._waiting.items():
            if copy:
                del self._waiting[key]
                self._kept.pop(key, None)
                return True
        return False

    def _next(self) -> Entry | None:
        """Wait for something to write; None when there is nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending.is_set())
            for key in self._waiting:
                return key, self._waiting.pop(key)
        return None

    def _write(self) -> None:
        while entry := self._next():
            began = time.monotonic()
            try:
                self._write_one(*entry)
            except Exception:
                logger.exception("A last known answer is not kept in Redis.")
            took_s = time.monotonic() - began
            pause_s = max(PAUSE_MIN_S, PAUSE_TIMES * took_s)
            self._ending.wait(min(pause_s, PAUSE_MAX_S))

    def _write_one(self, key: str, copy: Copy | None) -> None:
        place = self._place(key)
        if copy is None:
            cache().delete(place)
        # What has changed while it waited would take the place of what is newer.
        elif not generations.is_current(copy.mark):
            self._kept.pop(key, None)
        elif len(sealed := seal(key, copy)) <= PLACE_BYTES:
            cache().set_many({place: sealed, IS_ANYTHING: 1}, STALE_IF_ERROR_S)
            if cache().is_degraded:
                self._kept.pop(key, None)  # it may not be there

    def _read(self, key: str) -> Copy | None:
        sealed = cache().get(self._place(key))
        try:
            return unseal(key, sealed) if sealed else None
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            logger.warning("A last known answer in Redis cannot be read: %s", error)
            return None

    def _place(self, key: str) -> str:
        return f"last-known:{zlib.crc32(key.encode()) % self.places}"


def cache() -> Any:
    """Return the cache with nothing in memory; each thread has one of its own."""
    return caches["responses"]


def seal(key: str, copy: Copy) -> str:
    _, stored_at, _, about, body = dump(key, copy)
    parts = (key.encode(), repr(stored_at).encode(), about, body)
    packed = zlib.compress(b"\0".join(parts), PACKING)
    return b64encode(_signature(packed) + packed).decode()


def unseal(key: str, sealed: str) -> Copy | None:
    """Return the copy if it is the one of this key; ValueError if it is not ours."""
    content = b64decode(sealed)
    signature, packed = content[:SIGNATURE_BYTES], content[SIGNATURE_BYTES:]
    if not constant_time_compare(signature, _signature(packed)):
        raise ValueError("The signature is not ours.")
    theirs, stored_at, about, body = zlib.decompress(packed).split(b"\0", 3)
    if theirs != key.encode():
        return None
    copy = load(float(stored_at), about, body)
    return replace(copy, mark=Mark(0, copy.mark.slots))


def _signature(packed: bytes) -> bytes:
    return salted_hmac(__name__, packed, algorithm="sha256").digest()
