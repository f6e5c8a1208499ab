"""Tag-based invalidation of cached responses, shared by the processes of a machine.

A response carries a mark: the moment before its content was read, and its tags. A
commit records the moment at which its tags were invalidated; a response whose mark is
earlier is not current. The moments are in a file that every process maps into memory:
to compare them costs less than a microsecond, all processes see an invalidation at
once, and each may be killed at any time. Without room for the file no response is
current, so none is cached. Tags share slots: at worst a response is read once more
than needed. Other machines learn of invalidations in `invalidation_pubsub`.
"""

import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from django.conf import settings
from django.db import transaction

logger = logging.getLogger(__name__)

SLOTS = 1 << 16
SLOT_BYTES = 8
# Two writers of a slot at once may leave the earlier moment in it, earlier by less.
PRECISION_NS = 1_000_000
# In place of the file, if there is no room for it: all is invalidated all the time.
NOTHING_IS_CURRENT = memoryview(b"\xff" * SLOTS * SLOT_BYTES).cast("Q")
# A tag of every response, for when it is not known what was changed.
EVERYTHING = "everything"
# A tag of every invalidation.
CHANGES = "changes"

# Called with the tags, by the thread that has committed.
listeners: list[Callable[[tuple[str, ...]], None]] = []


class Mark(NamedTuple):
    """Moment at which the content of a response was read, and the slots of its tags."""

    at: int
    slots: tuple[int, ...]


def now() -> int:
    """Return the moment, in nanoseconds of a clock that all processes share."""
    return time.monotonic_ns()


class Invalidations:
    """Moment of the last invalidation of each slot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slots: memoryview | None = None
        self._has_warned = False

    @property
    def slots(self) -> memoryview:
        if self._slots is None:
            try:
                self._slots = memoryview(self._map()).cast("Q")
            except OSError as error:
                if not self._has_warned:
                    message = "Nothing is cached, as invalidations have no file: %s"
                    logger.error(message, error)
                self._has_warned = True
                return NOTHING_IS_CURRENT
        return self._slots

    def _map(self) -> mmap.mmap:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"invalidations-{boot_id()}"
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                # Room for all of it: a store on a full disk would kill the process.
                os.posix_fallocate(file, 0, SLOTS * SLOT_BYTES)
            else:
                os.truncate(file, SLOTS * SLOT_BYTES)
            return mmap.mmap(file, SLOTS * SLOT_BYTES)
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

    def record(self, tags: Iterable[str]) -> None:
        """Record that these tags are invalidated at this moment.

        Without a lock, which a stopped writer would hold for ever: a writer that was
        delayed before its store, and so may have replaced a later moment, stores again.
        """
        slots = self.slots
        if slots.readonly:
            return
        for slot in map(slot_of, (*tags, CHANGES)):
            moment = 0
            while now() - moment >= PRECISION_NS:
                moment = now()
                slots[slot] = moment

    def delete_earlier_boots(self) -> None:
        for path in self.folder.glob("invalidations-*"):
            if path.name != f"invalidations-{boot_id()}":
                path.unlink(missing_ok=True)


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine: the clock begins anew with each."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "always"


def slot_of(tag: str) -> int:
    return crc32(tag.encode()) % SLOTS


def mark(at: int, tags: Iterable[str]) -> Mark:
    return Mark(at, tuple({slot_of(EVERYTHING), *map(slot_of, tags)}))


invalidations = Invalidations(settings.DATA_DIR)


def invalidate(*tags: str) -> None:
    """Invalidate what carries one of these tags, when the transaction commits."""
    transaction.on_commit(partial(_invalidate, tags))


def pending_tags() -> tuple[str, ...]:
    """Return the tags that the commit of the current transaction will invalidate."""
    hooks = [hook for _, hook, _ in transaction.get_connection().run_on_commit]
    ours = (hook for hook in hooks if getattr(hook, "func", None) is _invalidate)
    return tuple(tag for hook in ours for tag in hook.args[0])


def invalidate_pending() -> None:
    """Invalidate the pending tags at once: the outcome of the commit is not known."""
    _invalidate(pending_tags())


def _invalidate(tags: tuple[str, ...]) -> None:
    invalidations.record(tags)
    for listener in listeners:
        listener(tags)
