"""Placement of servers and load generator on cores, and priorities."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# Other systems than Linux place processes as they like.
CAN_PLACE = hasattr(os, "sched_setaffinity")
ALL = os.sched_getaffinity(0) if CAN_PLACE else set(range(os.cpu_count() or 1))
GENERATOR = {max(ALL)} if CAN_PLACE else set()
SERVERS = ALL - GENERATOR or ALL


def describe() -> str:
    if not CAN_PLACE or len(ALL) == 1:
        return "servers and load generator share all cores"
    return (
        f"servers on core {_list(SERVERS)}, load generator on core {_list(GENERATOR)}"
    )


def _list(cpus: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cpus)))


@contextmanager
def separate_cores(servers: Iterable[psutil.Process]) -> Iterator[None]:
    """Keep the core of the load generator free within the block."""
    servers = list(servers)
    _place(servers, SERVERS)
    try:
        yield
    finally:
        _place(servers, ALL)
        set_priority(servers, 0)


def _place(servers: Iterable[psutil.Process], cpus: set[int]) -> None:
    if not CAN_PLACE:
        return
    for process in (psutil.Process(), *servers):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cpus)


def set_priority(processes: Iterable[psutil.Process], nice: int) -> None:
    """Set the priority of the sessions of processes, where permitted."""
    for process in processes:
        with suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text(str(nice))
