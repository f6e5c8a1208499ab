"""Run of one job, in whichever process has claimed it: of the pool, or of Celery.

A limit on the data of the process makes allocations beyond it fail (MemoryError). What
else ends a run early is the caller's: its time limit, and its memory with descendants.
"""

import logging
import os
import resource
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from django.db import close_old_connections

from compute import queue
from compute.outcomes import ErrorCode, Failed, Outcome, Split, Succeeded, Unsupported
from compute.pool import process_tree
from compute.queue import Claim, Step
from compute.registry import OtherVersion, Parts, Task, TaskFailed, tasks
from compute.task_context import ProgressCallback, TaskContext
from resilient_site.api.null_characters import has_null_character
from resilient_site.observability import request_id, tracing
from resilient_site.resilience.breaker_overrides import breaker_overrides

logger = logging.getLogger(__name__)

NICENESS = 19
# When memory runs out, the kernel kills these before other processes of the site.
OOM_SCORE = 700
RESULT_MAX_BYTES = 256 * 1024
# A pipe takes this much at once: a process suspended within a larger message would
# block the supervisor.
MESSAGE_MAX_BYTES = 16 * 1024
# What Celery kills exceeds its time limit by this, so that it may clean up.
HARD_LIMIT_S = 3.0
# How often the memory of a job's processes is added up.
MEMORY_INTERVAL_S = 0.5
MiB = 1024 * 1024


def yield_to_others() -> None:
    """Lower the priority of this process for good: others serve requests."""
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def execute(
    claim: Claim,
    on_progress: ProgressCallback,
    time_limit_errors: tuple[type[Exception], ...] = (),
) -> Outcome:
    """Run the job, and return how that ended; `time_limit_errors` mean too late."""
    task = tasks.get(claim.task)
    if task is None or (claim.step is not Step.MAIN and not task.has_parts):
        return Unsupported()
    request_id.set_request_id(claim.request_id)
    breaker_overrides.apply()
    close_old_connections()
    context = TaskContext(
        claim,
        # NaN is 0 here, and what is no number ends this run, not its supervisor.
        lambda fraction, text: on_progress(
            min(max(0.0, float(fraction)), 1.0), _storable(text[:200])
        ),
    )
    _limit_memory(task.memory_mb * MiB)
    try:
        with tracing.job_span(task.name, claim.traceparent):
            outcome = _as_outcome(claim, _call(task, context))
    except OtherVersion:
        outcome = Unsupported()
    except TaskFailed as failure:
        outcome = Failed(ErrorCode.TASK_FAILED, _storable(str(failure)))
    except MemoryError:
        _limit_memory(None)
        outcome = memory_limit_exceeded(claim)
    except time_limit_errors:
        outcome = time_limit_exceeded(claim)
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
    call = partial(task.main, context)
    if step is Step.PART and task.part_function:
        call = partial(task.part_function, context)
    elif step is Step.MERGE and task.merge_function:
        call = partial(task.merge_function, context, context.part_results())
    try:
        return call(**params)
    except TypeError as error:
        # Raised by the call itself, and not within: it has no such parameter.
        if error.__traceback__ and error.__traceback__.tb_next is None:
            raise OtherVersion from error
        raise


def _as_outcome(claim: Claim, result: Any) -> Outcome:
    # Here, as what is no JSON would end the supervisor and not this run alone.
    encode = partial(orjson.dumps, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    if isinstance(result, Parts):
        if not result.params:
            return Failed(ErrorCode.ERROR, "It was divided into no parts.")
        return Split(orjson.loads(encode(result.params)))
    encoded = encode(result)
    if has_null_character(encoded):
        return Failed(ErrorCode.ERROR, "The result has a null character.")
    if len(encoded) > RESULT_MAX_BYTES:
        size = f"{len(encoded):,} of at most {RESULT_MAX_BYTES:,} bytes"
        return Failed(ErrorCode.RESULT_TOO_LARGE, f"The result has {size}.")
    result = orjson.loads(encoded)
    if len(encoded) <= MESSAGE_MAX_BYTES:
        return Succeeded(result)
    queue.store_result(claim, result)
    return Succeeded(stored=True)


class Limits:
    """Limits of a run from now on, as another process enforces them.

    `pid` is the process that runs it, which may exceed the time limit by `margin_s`.
    """

    def __init__(self, claim: Claim, pid: int, margin_s: float) -> None:
        self.claim, self.pid = claim, pid
        task = tasks.get(claim.task)
        self._began = time.monotonic()
        self._end = self._began + (task.time_limit_s if task else 0) + margin_s
        self._measure_at = self._began + MEMORY_INTERVAL_S
        limit = task.memory_mb * MiB if task else 0
        self._bytes = process_tree.resident_bytes(pid) + limit

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def find_exceeded(self) -> Outcome | None:
        """Return the outcome if it exceeds its time, or memory with descendants."""
        now = time.monotonic()
        if now > self._end:
            return time_limit_exceeded(self.claim)
        if now > self._measure_at:
            self._measure_at = now + MEMORY_INTERVAL_S
            if process_tree.is_tree_larger(self.pid, self._bytes):
                return memory_limit_exceeded(self.claim)
        return None


def memory_limit_exceeded(claim: Claim) -> Outcome:
    task = tasks.get(claim.task)
    limit = f"memory limit of {task.memory_mb} MB" if task else "memory limit"
    return Failed(ErrorCode.MEMORY_LIMIT, f"It exceeded its {limit}.", retry=True)


def time_limit_exceeded(claim: Claim) -> Outcome:
    task = tasks.get(claim.task)
    limit = f"time limit of {task.time_limit_s:g} s" if task else "time limit"
    return Failed(ErrorCode.TIME_LIMIT, f"It exceeded its {limit}.")


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
