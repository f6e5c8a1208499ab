"""What this process counts: plain numbers, made metrics of when they are asked for.

To add to one costs a fraction of a microsecond. Those of the event loop need no lock;
what threads count goes through `count`.
"""

import os
import threading
from bisect import bisect_left
from collections import defaultdict

# Upper bounds in seconds; what takes longer is in one more.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# By route, method, status, and how it was answered.
requests: defaultdict[tuple[str, str, int, str], int] = defaultdict(int)
# By name and labels.
_counted: defaultdict[tuple[str, ...], int] = defaultdict(int)
_lock = threading.Lock()


class Histogram:
    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def note(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


# By route, method and class of the status, such as 2xx.
durations: defaultdict[tuple[str, str, str], Histogram] = defaultdict(Histogram)


def count(name: str, *labels: str) -> None:
    """Add one to the counter `name`. For threads, and what is not counted often."""
    with _lock:
        _counted[name, *labels] += 1


def counted() -> dict[tuple[str, ...], int]:
    with _lock:
        return dict(_counted)


def _unlock_in_child() -> None:
    # Another thread of the parent may have held it; no thread of the child does.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_in_child)
