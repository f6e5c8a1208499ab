"""When things were changed last: moments that all processes on this machine share.

Whoever keeps a copy notes the moment before he reads the original, and looks before
he hands the copy out whether one of its tags was changed since. Whoever changes
something says so when the change is committed. The moments lie in a file that every
process maps into its memory: to look costs under a microsecond, a change is seen by
all of them at once, and a process may be killed at any time. Tags that share a slot
only make a copy be read once more than needed.
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
WIDTH = 8
# Two who renew a slot at once may leave the earlier moment in it, earlier by less.
BLUR_NS = 1_000_000
# In place of the file, if there is no room for it: everything changes all the time.
NOTHING_IS_CURRENT = memoryview(b"\xff" * SLOTS * WIDTH).cast("Q")
# A tag of every copy, for the day when it is not known what has changed.
EVERYTHING = "everything"
# Changed with each change.
CHANGES = "changes"

# Called with the tags by the thread that has committed: what tells other machines.
listeners: list[Callable[[tuple[str, ...]], None]] = []


class Mark(NamedTuple):
    """When the original was read, and the slots of what was read."""

    at: int
    slots: tuple[int, ...]


def now() -> int:
    """Return the moment, in nanoseconds of a clock that all processes share."""
    return time.monotonic_ns()


class Generations:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slots: memoryview | None = None
        self._has_complained = False

    @property
    def slots(self) -> memoryview:
        if self._slots is None:
            try:
                self._slots = memoryview(self._map()).cast("Q")
            except OSError as error:
                if not self._has_complained:
                    logger.error("Changes cannot be noted, so no copies: %s", error)
                self._has_complained = True
                return NOTHING_IS_CURRENT
        return self._slots

    def _map(self) -> mmap.mmap:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"generations-{boot_id()}"
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                # Room for all of it: a store on a full disk would kill the process.
                os.posix_fallocate(file, 0, SLOTS * WIDTH)
            else:
                os.truncate(file, SLOTS * WIDTH)
            return mmap.mmap(file, SLOTS * WIDTH)
        finally:
            os.close(file)

    def is_current(self, mark: Mark) -> bool:
        """Tell whether nothing that `mark` speaks of has changed since."""
        slots, at = self.slots, mark.at - BLUR_NS
        # A loop, as this is on the way of every answer from memory.
        for slot in mark.slots:  # noqa: SIM110
            if slots[slot] >= at:
                return False
        return True

    def renew(self, tags: Iterable[str]) -> None:
        """Say that these have changed.

        Writers need no lock, which one that is stopped would hold for ever: who was
        held up before his store, and so may have undone a later one, stores again.
        """
        slots = self.slots
        if slots.readonly:
            return
        for slot in map(slot_of, (*tags, CHANGES)):
            moment = 0
            while now() - moment >= BLUR_NS:
                moment = now()
                slots[slot] = moment

    def forget_earlier_boots(self) -> None:
        for path in self.folder.glob("generations-*"):
            if path.name != f"generations-{boot_id()}":
                path.unlink(missing_ok=True)


@cache
def boot_id() -> str:
    """Name this run of the machine: with each one its clock begins anew."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "always"


def slot_of(tag: str) -> int:
    return crc32(tag.encode()) % SLOTS


def mark(at: int, tags: Iterable[str]) -> Mark:
    return Mark(at, tuple({slot_of(EVERYTHING), *map(slot_of, tags)}))


generations = Generations(settings.DATA_DIR)


def invalidate(*tags: str) -> None:
    """Let no copy of these be taken for current, as soon as the change is committed."""
    transaction.on_commit(partial(_invalidate, tags))


def to_be_invalidated() -> tuple[str, ...]:
    """Return what the commit of the transaction at hand will say has changed."""
    hooks = [hook for _, hook, _ in transaction.get_connection().run_on_commit]
    ours = (hook for hook in hooks if getattr(hook, "func", None) is _invalidate)
    return tuple(tag for hook in ours for tag in hook.args[0])


def invalidate_anyway() -> None:
    """Say it at once: nobody knows whether the commit was made."""
    _invalidate(to_be_invalidated())


def _invalidate(tags: tuple[str, ...]) -> None:
    generations.renew(tags)
    for listener in listeners:
        listener(tags)
