"""The memory of this process: what it holds, and what of it is never looked through."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Served:
    """Since when this process answers, and how much it has answered."""

    def __init__(self) -> None:
        self.begin(lambda: 0)

    def begin(self, requests: Callable[[], int]) -> None:
        self.started_at = time.time()
        self.requests = requests


served = Served()


def freeze() -> None:
    """Set apart all that is there: it lives as long as the process.

    Before a fork: the collector of a child then writes into none of it, and the pages
    stay shared. It has less to look through in every process.
    """
    gc.collect()
    gc.freeze()


def resident_bytes() -> int:
    """Return what of this process is in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def private_bytes() -> int:
    """Return what would be free without this process. It costs a millisecond or two."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if "Private_" in line) * 1024


def heap() -> dict[str, float]:
    """Return the figures of this process, for whoever shows them."""
    from resilient_site.cache.lru import held
    from resilient_site.edge.cache.stores import copies

    figures = {
        "pid": os.getpid(),
        "started_at": served.started_at,
        "requests_served": served.requests(),
        "resident_bytes": resident_bytes(),
        "private_bytes": private_bytes(),
        "frozen_objects": gc.get_freeze_count(),
        "cache_read_bytes": copies.bytes,
        "cache_memory_bytes": held().bytes,
    }
    stats = zip(gc.get_count(), gc.get_stats(), strict=True)
    for generation, (count, stat) in enumerate(stats):
        figures[f"gc_{generation}_count"] = count
        figures[f"gc_{generation}_collections"] = stat["collections"]
        figures[f"gc_{generation}_collected"] = stat["collected"]
    return figures
