"""What may be on the disk, as far as memory tells: to look there costs more than a no.

A Bloom filter of one hash: what was added is always found, and so is a little that was
not. Others add to the disk too; what they added is read from it every now and then.
"""

import time
from collections.abc import Callable

SLOTS = 2**20
# Fuller than that it finds too much, and is begun anew.
FULL_SHARE = 0.25
CURRENT_S = 5.0


class Hints:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at: float | None = None
        self._is_complete = False
        self._clear()

    def _clear(self) -> None:
        self._slots = bytearray(SLOTS)
        self._used = 0
        # Of the latest that is known to be there.
        self.stored_at = 0.0

    def add(self, key: str) -> None:
        slot = hash(key) % SLOTS
        if not self._slots[slot]:
            self._slots[slot] = 1
            self._used += 1

    def may_have(self, key: str) -> bool:
        return not self._is_complete or bool(self._slots[hash(key) % SLOTS])

    def is_to_be_read(self) -> bool:
        """Tell, once at a time, that others may have added something."""
        moment = self._clock()
        if self._read_at is not None and moment - self._read_at < CURRENT_S:
            return False
        self._read_at = moment
        if self._used > FULL_SHARE * SLOTS:
            self._is_complete = False
            self._clear()
        return True

    def note_all(self, rows: list[tuple[str, float]]) -> None:
        """Take in what was stored since `stored_at`."""
        for key, stored_at in rows:
            self.add(key)
            self.stored_at = max(self.stored_at, stored_at)
        self._is_complete = True
