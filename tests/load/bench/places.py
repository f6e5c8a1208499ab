"""Which cores servers and the load generator have, and who comes first."""

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


def told() -> str:
    if not CAN_PLACE or len(ALL) == 1:
        return "servers and load generator share all cores"
    return (
        f"servers on core {_list(SERVERS)}, load generator on core {_list(GENERATOR)}"
    )


def _list(cpus: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cpus)))


@contextmanager
def apart(servers: Iterable[psutil.Process]) -> Iterator[None]:
    """Leave the generator its core, also by what is started in the block.

    At the end of it these servers may use all cores again.
    """
    servers = list(servers)
    _place(servers, SERVERS)
    try:
        yield
    finally:
        _place(servers, ALL)
        rank(servers, 0)


def _place(servers: Iterable[psutil.Process], cpus: set[int]) -> None:
    if not CAN_PLACE:
        return
    for process in (psutil.Process(), *servers):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, cpus)


def rank(processes: Iterable[psutil.Process], nice: int) -> None:
    """Have them come before all other sessions (-10) or not (0), where one may."""
    for process in processes:
        with suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text(str(nice))
