"""Worker process: runs the claims it receives through a pipe, one after the other.

Its limits are enforced by the kernel, as the task may be in a loop in C where no thread
of the interpreter runs: a timer (SIGALRM) ends the process at the time limit, a limit
on its data makes allocations fail (MemoryError), and the end of the supervisor ends it
too (SIGIO). What the job has started ends with it, see compute.pool.process_tree.
"""

import fcntl
import itertools
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
from django.db import close_old_connections

from compute import queue
from compute.outcomes import ErrorCode, Failed, Outcome, Split, Succeeded
from compute.pool import process_tree
from compute.queue import Claim, Step
from compute.registry import Parts, Task, TaskFailed, tasks
from compute.task_context import TaskContext
from resilient_site.observability import request_id, tracing
from resilient_site.observability.memory_usage import resident_bytes
from resilient_site.resilience.breaker_overrides import breaker_overrides

logger = logging.getLogger(__name__)

NICENESS = 19
# When memory runs out, the kernel kills these before other processes of the site.
OOM_SCORE = 700
# A process is replaced after so many jobs, or when it remains larger than this.
JOBS_MAX = 500
SIZE_MAX_BYTES = 768 * 1024 * 1024
RESULT_MAX_BYTES = 256 * 1024
# A pipe takes this much at once: a process suspended within a larger message would
# block the supervisor.
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
    _set_up_process()
    for number in itertools.count(1):
        try:
            claim = pipe.recv()
        except (EOFError, OSError):
            return
        outcome = _execute(claim, pipe.send)
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
    process_tree.adopt_orphans()
    signal.signal(process_tree.SUPERVISOR_DIED, signal.SIG_DFL)
    tracing.start("job")
    # Ctrl-C is for the supervisor, which lets running jobs finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


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


def _execute(claim: Claim, send: Callable[[Any], None]) -> Outcome:
    task = tasks.get(claim.task)
    if task is None:
        detail = "This version of the site has no such task."
        return Failed(ErrorCode.TASK_UNKNOWN, detail)
    request_id.set_request_id(claim.request_id)
    breaker_overrides.apply()
    close_old_connections()
    context = TaskContext(
        claim, lambda fraction, text: send(Progress(fraction, _storable(text[:200])))
    )
    signal.setitimer(signal.ITIMER_REAL, task.time_limit_s)
    _limit_memory(task.memory_mb * MiB)
    try:
        with tracing.job_span(task.name, claim.traceparent):
            outcome = _as_outcome(claim, _call(task, context))
    except TaskFailed as failure:
        outcome = Failed(ErrorCode.TASK_FAILED, _storable(str(failure)))
    except MemoryError:
        _limit_memory(None)
        outcome = memory_limit_exceeded(claim)
    except Exception as error:  # noqa: BLE001 - a task may raise anything
        logger.exception("A job failed.", extra={"job": str(claim.job_id)})
        outcome = Failed(ErrorCode.ERROR, _describe(error), retry=True)
    finally:
        _limit_memory(None)
    close_old_connections()
    return outcome


def _call(task: Task, context: TaskContext) -> Any:
    pid = os.getpid()
    try:
        return _call_step(task, context)
    finally:
        if os.getpid() != pid:
            os._exit(1)  # a process that the task has forked


def _call_step(task: Task, context: TaskContext) -> Any:
    step, params = context.claim.step, context.claim.params
    if step is Step.MAIN:
        return task.main(context, **params)
    if task.part_function is None or task.merge_function is None:
        raise TaskFailed("This version of the task has no parts.")
    if step is Step.PART:
        return task.part_function(context, **params)
    return task.merge_function(context, context.part_results(), **params)


def _as_outcome(claim: Claim, result: Any) -> Outcome:
    if isinstance(result, Parts):
        return Split(result.params)
    encoded = orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    if b"\\u0000" in encoded:
        return Failed(ErrorCode.ERROR, "The result has a null character.")
    if len(encoded) > RESULT_MAX_BYTES:
        size = f"{len(encoded):,} of at most {RESULT_MAX_BYTES:,} bytes"
        return Failed(ErrorCode.RESULT_TOO_LARGE, f"The result has {size}.")
    result = orjson.loads(encoded)
    if len(encoded) <= MESSAGE_MAX_BYTES:
        return Succeeded(result)
    queue.store_result(claim, result)
    return Succeeded(stored=True)


def memory_limit_exceeded(claim: Claim) -> Outcome:
    task = tasks.get(claim.task)
    limit = f"memory limit of {task.memory_mb} MB" if task else "memory limit"
    return Failed(ErrorCode.MEMORY_LIMIT, f"It exceeded its {limit}.", retry=True)


def _describe(error: Exception) -> str:
    return _storable(f"{type(error).__name__}: {error}"[:1000])


def _storable(text: str) -> str:
    """Replace what PostgreSQL does not store: null characters and lone surrogates."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")


def _limit_memory(limit: int | None) -> None:
    """Limit what the process may allocate from now on; None: no limit."""
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
