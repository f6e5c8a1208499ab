"""A pool process: takes claims from a pipe and runs them, one after the other.

The kernel watches over it, since its own code may be a loop in C that lets nobody in:
a timer ends it at the time limit, a limit on its data ends what eats memory, and the
end of the supervisor ends it too.
"""

import fcntl
import logging
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
from django.db import DatabaseError, close_old_connections

from compute import queue
from compute.outcomes import Code, Failed, Outcome, Split, Succeeded
from compute.queue import Claim, Step
from compute.registry import Parts, Task, TaskFailed, tasks
from compute.task_context import Run
from resilient_site.observability import request_id, tracing
from resilient_site.observability.memory_usage import resident_bytes
from resilient_site.resilience.breaker_overrides import holds

logger = logging.getLogger(__name__)

NICENESS = 19
# The kernel, short of memory, takes these before anything else of the site.
OOM_SCORE = 700
# A process is replaced after so many jobs, or when it stays larger than this.
JOBS_MAX = 500
SIZE_MAX_BYTES = 768 * 1024 * 1024
RESULT_MAX_BYTES = 256 * 1024
# What a pipe takes in one piece: a process stopped in the middle of a larger message
# would stop its reader too.
MESSAGE_MAX_BYTES = 16 * 1024
MiB = 1024 * 1024


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
    _prepare()
    for jobs in range(1, JOBS_MAX + 1):
        try:
            claim = pipe.recv()
        except (EOFError, OSError):
            return
        outcome = _execute(claim, pipe.send)
        out_of_memory = isinstance(outcome, Failed) and (
            outcome.code == Code.MEMORY_LIMIT
        )
        retire = jobs == JOBS_MAX or out_of_memory or resident_bytes() > SIZE_MAX_BYTES
        if retire:
            tracing.end()
        pipe.send(Done(outcome, retire))
        if retire:
            return


def _prepare() -> None:
    _die_with_supervisor()
    tracing.begin("job")
    # Ctrl-C is for the supervisor, which lets jobs end or stops them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def _die_with_supervisor() -> None:
    """Have the kernel end this process when the supervisor's end of a pipe closes.

    A thread that watches it would not run during a loop in C.
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
        os._exit(1)  # it has gone already


def _execute(claim: Claim, send: Callable[[Any], None]) -> Outcome:
    task = tasks.get(claim.task)
    if task is None:
        return Failed(Code.TASK_UNKNOWN, "This version of the site has no such task.")
    request_id.begin_request(claim.request_id)
    holds.apply()
    close_old_connections()
    run = Run(claim, lambda fraction, text: send(Progress(fraction, text[:200])))
    signal.setitimer(signal.ITIMER_REAL, task.time_limit_s)
    _limit_memory(task.memory_mb * MiB)
    try:
        with tracing.of_job(task.name, claim.traceparent):
            outcome = _as_outcome(_call(task, run), task)
    except TaskFailed as failure:
        outcome = Failed(Code.TASK_FAILED, str(failure))
    except MemoryError:
        _limit_memory(None)
        detail = f"It needed more than the {task.memory_mb} MB that it may use."
        outcome = Failed(Code.MEMORY_LIMIT, detail, retry=True)
    except Exception as error:  # noqa: BLE001 - whatever a task may raise
        logger.exception("A job failed.", extra={"job": str(claim.job_id)})
        outcome = Failed(Code.ERROR, _in_words(error), retry=True)
    finally:
        _limit_memory(None)
    outcome = _kept(claim, outcome)
    # After the last of the work: what is left is the supervisor's to wait for.
    signal.setitimer(signal.ITIMER_REAL, 0)
    close_old_connections()
    return outcome


def _call(task: Task, run: Run) -> Any:
    params = run.claim.params
    if run.claim.step is Step.PART:
        if task.part_function is None:
            raise TaskFailed("This version of the task has no parts.")
        return task.part_function(run, **params)
    if run.claim.step is Step.MERGE:
        if task.merge_function is None:
            raise TaskFailed("This version of the task has no parts.")
        return task.merge_function(run, run.results_of_parts(), **params)
    return task.main(run, **params)


def _as_outcome(result: Any, task: Task) -> Outcome:
    if isinstance(result, Parts):
        return Split(result.params)
    encoded = orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    if b"\\u0000" in encoded:
        return Failed(Code.ERROR, "The result has a null character.")
    if len(encoded) > RESULT_MAX_BYTES:
        size = f"{len(encoded):,} of at most {RESULT_MAX_BYTES:,} bytes"
        return Failed(Code.RESULT_TOO_LARGE, f"The result has {size}.")
    return Succeeded(orjson.loads(encoded))


def _kept(claim: Claim, outcome: Outcome) -> Outcome:
    """Write a large result to the job's row, where the supervisor need not carry it."""
    if not isinstance(outcome, Succeeded):
        return outcome
    if len(orjson.dumps(outcome.result)) <= MESSAGE_MAX_BYTES:
        return outcome
    try:
        queue.keep_result(claim, outcome.result)
    except DatabaseError as error:
        logger.exception("A result was not kept.")
        return Failed(Code.ERROR, _in_words(error), retry=True)
    return Succeeded(stored=True)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


def _limit_memory(limit: int | None) -> None:
    """Bound what the process may have beyond what it has now; None: no bound."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if limit is None else _data_bytes() + limit
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Return what RLIMIT_DATA counts: see VmData in proc(5)."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
