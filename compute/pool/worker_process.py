"""Worker process: runs the claims it receives through a pipe, one after the other.

Its limits are enforced by the kernel, as the task may be in a loop in C where no thread
of the interpreter runs: a timer (SIGALRM) ends the process at the time limit, a limit
on its data makes allocations fail (MemoryError), and the end of the supervisor ends it
too (SIGIO). What the job has started ends with it, see compute.pool.process_tree.
"""

import fcntl
import itertools
import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from compute import running
from compute.outcomes import ErrorCode, Failed, Outcome
from compute.pool import process_tree
from compute.registry import tasks
from resilient_site.observability import tracing
from resilient_site.observability.memory_usage import resident_bytes
from resilient_site.operations import supervision

# A process is replaced after so many jobs, or when it remains larger than this.
JOBS_MAX = 500
SIZE_MAX_BYTES = 768 * 1024 * 1024


@dataclass(frozen=True)
class Progress:
    fraction: float
    message: str


@dataclass(frozen=True)
class Done:
    outcome: Outcome
    retire: bool  # the process ends after this


def main(pipe: "Connection[Any, Any]") -> None:
    """Run claims until the supervisor closes the pipe."""
    _set_up_process()
    for number in itertools.count(1):
        try:
            claim = pipe.recv()
        except (EOFError, OSError):
            return
        task = tasks.get(claim.task)
        signal.setitimer(signal.ITIMER_REAL, task.time_limit_s if task else 0)
        outcome = running.execute(
            claim, lambda fraction, text: pipe.send(Progress(fraction, text))
        )
        # What a library has started for this job would be missing in the next.
        retire = process_tree.end_descendants()
        # The time limit covers everything but the report to the supervisor.
        signal.setitimer(signal.ITIMER_REAL, 0)
        retire |= number >= JOBS_MAX or resident_bytes() > SIZE_MAX_BYTES
        if isinstance(outcome, Failed):
            retire |= outcome.code == ErrorCode.MEMORY_LIMIT
        if retire:
            tracing.stop()
        pipe.send(Done(outcome, retire))
        if retire:
            return


def _set_up_process() -> None:
    _exit_with_supervisor()
    supervision.set_name("pool")
    process_tree.adopt_orphans()
    signal.signal(process_tree.SUPERVISOR_DIED, signal.SIG_DFL)
    tracing.start("job")
    # Ctrl-C is for the supervisor, which lets running jobs finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    running.yield_to_others()


def _exit_with_supervisor() -> None:
    """Have the kernel end this process when the supervisor's end of a pipe closes.

    A thread that watches the pipe would not run during a loop in C.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    watched = parent.sentinel
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(watched, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(watched, fcntl.F_GETFL)
    fcntl.fcntl(watched, fcntl.F_SETFL, flags | os.O_ASYNC)
    if multiprocessing.connection.wait([watched], timeout=0):
        os._exit(1)  # the supervisor has ended already
