"""Process tree of a job: all that it starts, also in sessions of their own.

A pool process adopts the orphans among its descendants (PR_SET_CHILD_SUBREAPER), so
they stay below it, and it ends them with each job. If it dies itself, they become
children of the fork server, where the supervisor finds and kills them; if the
supervisor dies, the fork server does. Not handled: a fork server that is killed before
one of the two, processes of another user, and other systems than Linux.
"""

import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from resilient_site.operations.supervision import PR_SET_PDEATHSIG, prctl

PR_SET_CHILD_SUBREAPER = 36
# What the kernel sends to the fork server when the supervisor dies. Not SIGUSR1, which
# Celery uses.
SUPERVISOR_DIED = signal.SIGUSR2
# So long is waited for processes that are killed: some cannot be.
END_S = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> None:
    """Become the parent of those descendants whose parent ends."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_supervisor() -> None:
    """Have this process end with its parent, and all below it.

    A fork server ends by itself once a pipe is closed, but a job may have handed that
    on.
    """

    def end_all(*_: object) -> None:
        end_descendants()
        os._exit(0)

    signal.signal(SUPERVISOR_DIED, end_all)
    prctl(PR_SET_PDEATHSIG, SUPERVISOR_DIED)


def end_descendants() -> bool:
    """Kill all descendants of this process; return whether there were any."""
    found, deadline = False, time.monotonic() + END_S
    while _has_children() and time.monotonic() < deadline:
        found = True
        _kill(_tree(os.getpid())[1:])
        time.sleep(0.002)
    return found


def _has_children() -> bool:
    """Return whether this process has any, in one system call; reap the dead."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def kill_strays(server: int, workers: Collection[int]) -> bool:
    """Kill what pool processes that have died left below the fork server.

    `workers` are those that live. Return whether there was anything.
    """
    if parent_of(server) != os.getpid():
        return False  # it has ended, and another process may have its id
    strays = [one for one in _children(server) if one not in workers]
    for stray in strays:
        _kill(_tree(stray))
    return bool(strays)


def kill_adopted(own: Collection[int], before: Collection[int]) -> set[int]:
    """Kill what this process has adopted: children that are not its `own`.

    They are not killed at once, but if they were among `before`, the return value of
    the last call: one that has just been started is not known to be its own yet.
    """
    adopted = {child for child in _children(os.getpid()) if child not in own}
    for child in adopted.intersection(before):
        _kill(_tree(child))
        with suppress(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    return adopted


def children_of_self() -> list[int]:
    return _children(os.getpid())


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def parent_of(process: int) -> int:
    """Return the parent of a process; 0 if it has ended."""
    with suppress(OSError):
        # Behind the name of its program, which may be anything.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(fields[1])
    return 0


def _children(process: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _tree(process: int) -> list[int]:
    """Return a process and its descendants, each before its own children."""
    found = [process]
    for one in found:
        found += (child for child in _children(one) if child not in found)
    return found


# --- memory


def resident_bytes(process: int) -> int:
    """Return the memory of one process, without that of files."""
    resident, shared = _resident_and_shared_bytes(process)
    return resident - shared


def is_tree_larger(process: int, limit: int) -> bool:
    """Return whether a process and its descendants have more memory than `limit`.

    That of files does not count, and what they share counts once.
    """
    tree = _tree(process)
    # Usually enough, and cheap: it counts too much.
    if sum(_resident_and_shared_bytes(one)[0] for one in tree) <= limit:
        return False
    return sum(map(_proportional_bytes, tree)) > limit


def _resident_and_shared_bytes(process: int) -> tuple[int, int]:
    with suppress(OSError):
        _, resident, shared, *_ = Path(f"/proc/{process}/statm").read_text().split()
        return int(resident) * PAGE_BYTES, int(shared) * PAGE_BYTES
    return 0, 0


def _proportional_bytes(process: int) -> int:
    kinds = "Pss_Anon:", "Pss_Shmem:", "SwapPss:"
    with suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(one.split()[1]) * 1024 for one in lines if one.startswith(kinds))
    return 0
