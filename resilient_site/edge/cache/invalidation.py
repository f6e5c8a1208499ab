"""Tag-based invalidation of cached responses, on this machine and between machines.

A response carries a mark: the moment before its content was read, and its tags. A
commit records the moment at which its tags were invalidated; a response whose mark is
earlier is not current. The moments are in a file that every process maps into memory:
to compare them costs less than a microsecond, all processes see an invalidation at
once, and each may be killed at any time. Without room for the file no response is
current, so none is cached. Tags share slots: at worst a response is read once more
than needed.

Other machines learn of invalidations by pub/sub of Redis, from a thread: a commit waits
for nothing. Without Redis they see a change when their responses are no longer fresh
(`cache_control.FRESH_S`). Where Redis fails for the changing machine alone, the others
do not know that they miss messages: they may send an anonymous client, and in a batch,
a response that is outdated once more, while they revalidate it.
"""

import atexit
import logging
import mmap
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import orjson
from django.conf import settings
from django.db import transaction

from resilient_site.cache.redis_url import connect
from resilient_site.resilience.cache_control import CREDENTIAL, PRIVATE

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

SLOTS = 1 << 16
SLOT_BYTES = 8
# Of one tag alone, VOID.
VOID_SLOT = SLOTS
# Credentials have as many of their own: a client can choose one for its slot.
CREDENTIAL_SLOTS = SLOTS + 1
FILE_BYTES = (CREDENTIAL_SLOTS + SLOTS) * SLOT_BYTES
# Two writers of a slot at once may leave the earlier moment in it, earlier by less.
PRECISION_NS = 1_000_000
# In place of the file, if there is no room for it: all is invalidated all the time.
NOTHING_IS_CURRENT = memoryview(b"\xff" * FILE_BYTES).cast("Q")
# A tag of every response, for when it is not known what was changed.
EVERYTHING = "everything"
# Ends what was stored before, also as a stale response: an older dump was put back.
VOID = "void"
# A tag of every invalidation but those of credentials.
CHANGES = "changes"

CHANNEL = "resilient-site:changed"
# More tags than this are more than all that is cached.
MAX_TAGS = 5_000
TIMEOUT_S = 1.0
RETRY_S = 0.25
# What is invalidated within so long after a message goes into the next one.
BATCH_S = 0.05
# How long a process that ends waits for what is not published yet.
EXIT_TIMEOUT_S = 1.0


class Mark(NamedTuple):
    """Moment at which the content of a response was read, and the slots of its tags."""

    at: int
    slots: tuple[int, ...]


def now() -> int:
    """Return the moment, in nanoseconds of a clock that all processes share."""
    return time.monotonic_ns()


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine: the clock begins anew with each."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "always"


def slot_of(tag: str) -> int:
    if tag == VOID:
        return VOID_SLOT
    first = CREDENTIAL_SLOTS if tag.startswith(CREDENTIAL) else 0
    return first + crc32(tag.encode()) % SLOTS


def mark(at: int, tags: Iterable[str]) -> Mark:
    return Mark(at, tuple({slot_of(EVERYTHING), *map(slot_of, tags)}))


# --- on this machine


class Invalidations:
    """Moment of the last invalidation of each slot, in a file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._has_warned = False

    @property
    def slots(self) -> memoryview:
        try:
            return self._mapped
        except OSError as error:
            if not self._has_warned:
                message = "Nothing is cached, as invalidations have no file: %s"
                logger.error(message, error)
            self._has_warned = True
            return NOTHING_IS_CURRENT

    @cached_property
    def _mapped(self) -> memoryview:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"invalidations-{boot_id()}"
        with suppress(OSError):
            for earlier in set(self.folder.glob("invalidations-*")) - {path}:
                earlier.unlink()
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                # Room for all of it: a store on a full disk would kill the process.
                os.posix_fallocate(file, 0, FILE_BYTES)
            else:
                os.truncate(file, FILE_BYTES)
            return memoryview(mmap.mmap(file, FILE_BYTES)).cast("Q")
        finally:
            os.close(file)

    def is_current(self, mark: Mark) -> bool:
        """Return whether no tag of `mark` was invalidated since."""
        slots, at = self.slots, mark.at - PRECISION_NS
        # A loop, as every cache hit comes here.
        for slot in mark.slots:  # noqa: SIM110
            if slots[slot] >= at:
                return False
        return True

    @property
    def voided_at(self) -> int:
        """The moment before which nothing that was stored may be shown; -1: none."""
        return -1 if self.slots.readonly else self.slots[VOID_SLOT] or -1

    def record(self, tags: Iterable[str]) -> None:
        """Record that these tags are invalidated at this moment.

        Without a lock, which a stopped writer would hold for ever: a writer that was
        delayed before its store, and so may have replaced a later moment, stores again.
        """
        slots, tags = self.slots, list(tags)
        if slots.readonly:
            return
        # Anyone can send credentials that are not valid: that is no change.
        if not all(tag.startswith(CREDENTIAL) for tag in tags):
            tags.append(CHANGES)
        for slot in map(slot_of, tags):
            moment = 0
            while now() - moment >= PRECISION_NS:
                moment = now()
                slots[slot] = moment


# --- between machines


class Publisher:
    """Publishes tags from a thread; those that cannot be are kept and tried again."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A child has no thread to publish with, and the parent publishes its own tags.
        self._tags: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._client: Redis | None = None
        self._has_warned = False

    def publish(self, tags: Iterable[str]) -> None:
        """Have the tags published soon; wait for nothing."""
        with self._lock:
            self._tags.update(tags)
            if len(self._tags) > MAX_TAGS:
                self._tags = {EVERYTHING, PRIVATE}
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._run, name="invalidation-publisher", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the next call tries again
            if not self._has_warned:
                logger.error("Invalidations are not published yet: %s", error)
            self._has_warned = True
        else:
            self._thread, self._has_warned = thread, False

    def flush(self, timeout_s: float = EXIT_TIMEOUT_S) -> bool:
        """Wait until all is published; return whether it is."""
        if thread := self._thread:
            thread.join(timeout_s)
        return self._thread is None and not self._tags

    def _run(self) -> None:
        """Publish until nothing is left."""
        client = self._client = self._client or connect(TIMEOUT_S)
        while True:
            with self._lock:
                tags, self._tags = self._tags, set()
                if not tags:
                    self._thread = None
                    return
            try:
                client.publish(CHANNEL, orjson.dumps(sorted(tags)))
                time.sleep(BATCH_S)
            except Exception:  # noqa: BLE001 - no reply of Redis may end the thread
                # The circuit breaker of the cache logs the outage.
                self.publish(tags)
                time.sleep(RETRY_S)


class Subscriber:
    """Records in `invalidations` what other machines publish, in a thread.

    When it may have missed messages, it invalidates everything. What is for one client
    alone it invalidates whenever it begins to receive: nothing before is known.
    """

    def __init__(self, invalidations: Invalidations) -> None:
        self.invalidations = invalidations
        self.is_subscribed = threading.Event()
        self._subscribed_at = 0
        self._has_missed = False
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(
            target=self._run, name="invalidation-subscriber", daemon=True
        ).start()

    def stop(self) -> None:
        self._stopping.set()

    def was_subscribed_at(self, moment: int) -> bool:
        """Return whether every invalidation after `moment` was received."""
        return self.is_subscribed.is_set() and self._subscribed_at <= moment

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._receive()
            except Exception as error:  # noqa: BLE001 - as above
                if self.is_subscribed.is_set() or not self._has_missed:
                    message = "Invalidations of other machines are not received: %s"
                    logger.warning(message, error)
                self._has_missed = True
                self.is_subscribed.clear()
                self._stopping.wait(RETRY_S)

    def _receive(self) -> None:
        with connect(TIMEOUT_S) as client, client.pubsub() as channel:
            channel.subscribe(CHANNEL)
            is_silent = False
            while not self._stopping.is_set():
                message = channel.get_message(timeout=TIMEOUT_S)
                if message is None and is_silent:
                    raise TimeoutError("no reply to a ping")
                is_silent = message is None
                if message is None:
                    channel.ping()
                elif message["type"] == "subscribe":
                    self._on_subscribed()
                elif message["type"] == "message":
                    self._on_message(message["data"])

    def _on_subscribed(self) -> None:
        if self._has_missed:
            logger.warning("Invalidations of other machines are received again.")
            self.invalidations.record([EVERYTHING])
        self.invalidations.record([PRIVATE])
        self._subscribed_at = now()
        self.is_subscribed.set()

    def _on_message(self, data: bytes) -> None:
        try:
            self.invalidations.record(map(str, orjson.loads(data)))
        except (orjson.JSONDecodeError, TypeError):
            logger.warning("A message is no list of tags: %.100r", data)


# They are the machine's rather than this process's: every process that writes to the
# database records and publishes here, whether it serves requests or not.
invalidations = Invalidations(settings.DATA_DIR)
publisher = Publisher()
atexit.register(publisher.flush)
subscriber = Subscriber(invalidations)


def receives_all_invalidations() -> bool:
    """Return whether an invalidation on any machine is known here within a second."""
    return settings.EMBEDDED or subscriber.is_subscribed.is_set()


# --- by a commit


def invalidate(*tags: str) -> None:
    """Invalidate what carries one of these tags, when the transaction commits."""
    transaction.on_commit(partial(_invalidate, tags))


def invalidate_now(*tags: str) -> None:
    """Invalidate what carries one of these tags, whatever is being written."""
    _invalidate(tags)


def pending_tags() -> tuple[str, ...]:
    """Return the tags that the commit of the current transaction will invalidate."""
    hooks = [hook for _, hook, _ in transaction.get_connection().run_on_commit]
    ours = (hook for hook in hooks if getattr(hook, "func", None) is _invalidate)
    return tuple(tag for hook in ours for tag in hook.args[0])


def void_everything() -> None:
    """End all that is cached, on all machines: the database has another history."""
    _invalidate((VOID, EVERYTHING))


def invalidate_pending() -> None:
    """Invalidate the pending tags at once: the outcome of the commit is not known."""
    _invalidate(pending_tags())


def _invalidate(tags: tuple[str, ...]) -> None:
    invalidations.record(tags)
    if settings.REDIS_URL:
        publisher.publish(tags)
