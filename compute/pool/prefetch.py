"""Prefetch queue: claims that wait for a free process of this supervisor.

Where jobs take milliseconds, the database takes longer than the jobs. Then some jobs
are claimed before a process is free, and several are claimed and completed in one
transaction. Where jobs are longer, none is prefetched that another pool could run.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator

from compute.queue import Claim

# At most this much work is prefetched, and at most so many jobs.
WORK_S = 0.05
MAX_CLAIMS = 16
# A claim that waits longer, behind jobs that turn out long, is released.
PATIENCE_S = 0.25
# The assumed duration of a job at first, and the weight of the earlier mean.
UNKNOWN_S = 1.0
SMOOTHING = 0.8


class Prefetch:
    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.mean_s = UNKNOWN_S
        self._waiting: deque[tuple[float, Claim]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Claim]:
        return (claim for _, claim in self._waiting)

    def record_duration(self, seconds: float) -> None:
        """Update the mean duration of jobs; a longer one replaces it at once."""
        mean_s = SMOOTHING * self.mean_s + (1 - SMOOTHING) * seconds
        self.mean_s = max(mean_s, seconds)

    def capacity(self, longest_running_s: float) -> int:
        """Return how many more claims may wait, given the longest running job."""
        mean_s = max(self.mean_s, longest_running_s)
        limit = min(int(self.processes * WORK_S / mean_s), MAX_CLAIMS)
        return max(limit - len(self), 0)

    def add(self, claims: Iterable[Claim]) -> None:
        now = time.monotonic()
        self._waiting.extend((now, claim) for claim in claims)

    def pop(self) -> Claim:
        return self._waiting.popleft()[1]

    def remove(self, claims: Iterable[Claim]) -> list[Claim]:
        """Remove those of `claims` that wait here, and return them."""
        unwanted = set(claims)
        removed = [claim for claim in self if claim in unwanted]
        self._waiting = deque(one for one in self._waiting if one[1] not in unwanted)
        return removed

    def overdue(self) -> list[Claim]:
        since = time.monotonic() - PATIENCE_S
        return [claim for at, claim in self._waiting if at < since]
