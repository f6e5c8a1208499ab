"""Claims that wait for a process of this supervisor to be free.

Where jobs take a few milliseconds, the database takes longer than they do. Then some
are taken before a process is free for them, and several are taken and ended in one
transaction. Where jobs are longer, none waits here while others could have it.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator

from compute.queue import Claim

# As much work may wait as is done in so long, and at most so many jobs.
WORK_S = 0.05
MOST = 16
# Who waits longer all the same, as those before it take long, is handed back.
PATIENCE_S = 0.25
# What a job takes until it is known, and how slowly long ones are forgotten.
UNKNOWN_S = 1.0
MEMORY = 0.8


class Ahead:
    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.pace_s = UNKNOWN_S
        self._waiting: deque[tuple[float, Claim]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Claim]:
        return (claim for _, claim in self._waiting)

    def note(self, took_s: float) -> None:
        """Take in how long a job took. One that is long counts at once."""
        mean_s = MEMORY * self.pace_s + (1 - MEMORY) * took_s
        self.pace_s = max(mean_s, took_s)

    def room(self, under_way_s: float) -> int:
        """Return how many more may wait, while jobs have been under way for so long."""
        pace_s = max(self.pace_s, under_way_s)
        return max(min(int(self.processes * WORK_S / pace_s), MOST) - len(self), 0)

    def add(self, claims: Iterable[Claim]) -> None:
        now = time.monotonic()
        self._waiting.extend((now, claim) for claim in claims)

    def next(self) -> Claim:
        return self._waiting.popleft()[1]

    def remove(self, gone: Iterable[Claim]) -> list[Claim]:
        """Remove those of `gone` that wait here, and return them."""
        unwanted = set(gone)
        removed = [claim for claim in self if claim in unwanted]
        self._waiting = deque(one for one in self._waiting if one[1] not in unwanted)
        return removed

    def overdue(self) -> list[Claim]:
        since = time.monotonic() - PATIENCE_S
        return [claim for at, claim in self._waiting if at < since]
