"""Keeper: a thread of a worker's main process that holds the jobs of its processes.

A process in a loop in C cannot renew its lease, and while the broker is down Celery's
main loop stands still. So this thread renews all leases, kills the processes of jobs
that are cancelled, too large or released, and writes how the jobs of killed processes
have ended. A claim names the process: `Job.worker` is the worker's name and its id.
"""

import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
import warnings
from contextlib import suppress
from typing import Any

import orjson
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from compute import completion, jobs, metrics, queue, running
from compute.models import Job
from compute.outcomes import Cancelled, ErrorCode, Failed, Outcome, Released
from compute.pool import process_tree
from compute.pool.supervisor import Interval
from compute.queue import Claim
from compute.running import Limits
from resilient_site.errors import Conflict

logger = logging.getLogger(__name__)

TURN_S = 0.4
# So long after its time limit a process is killed here, if Celery did not.
KILL_AFTER_S = 2 * running.HARD_LIMIT_S
# So long the worker may take to stop when the jobs have ended.
EXIT_S = 5.0
PIPE_BYTES = 65536
# Celery reports within ten seconds that a process has ended. But of one that ended at
# once it may give the message to another, which cannot claim the job.
UNREPORTED_S = 15.0


class Keeper:
    node = ""

    def set_up(self, **options: Any) -> None:
        """Make what the processes of the pool inherit."""
        self.node = f"{socket.gethostname()[:50]}:{os.getpid()}:{uuid.uuid4().hex}"
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._errors: dict[str, BaseException] = {}
        self._stop_at = math.inf
        process_tree.adopt_orphans()

    def start(self, sender: Any, **options: Any) -> None:
        self._pool = sender.pool
        self._own = process_tree.children_of_self()
        self._adopted: set[int] = set()
        self._limits: dict[Claim, Limits] = {}
        # Since when the process of a claim is seen to have ended.
        self._ended: dict[Claim, float] = {}
        self._renew = Interval(queue.LEASE_S / 4)
        # Not a daemon: it ends after the main thread, and releases what is left.
        threading.Thread(target=self._run, name="keeper").start()
        # A long text at each lost connection, about a setting that has its default.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        logger.info("%d processes are waiting for jobs.", self._pool.num_processes)

    def stop(self, how: str, **options: Any) -> None:
        """Release the jobs after the grace time; when called again, at once."""
        is_first = self._stop_at == math.inf and how == "Warm"
        self._stop_at = time.monotonic() + is_first * settings.COMPUTE_GRACE_S

    def on_failure(self, task_id: str, exception: BaseException, **more: Any) -> None:
        """Remember why a process has ended within a job."""
        if isinstance(exception, WorkerLostError | TimeLimitExceeded):
            self._errors[task_id] = exception

    def report(self, *message: Any) -> None:
        """Pass on, from a process of the pool, what `_read_reports` expects."""
        with suppress(BlockingIOError):  # the pipe is full
            os.write(self._writer, orjson.dumps(message) + b"\n")

    def _read_reports(self) -> dict[str, tuple[float, str]]:
        """Record the ends of runs; return the latest progress of each claim."""
        progress = {}
        with suppress(BlockingIOError):
            for line in os.read(self._reader, PIPE_BYTES).splitlines():
                match orjson.loads(line):
                    case [task, str(how), seconds]:
                        metrics.record_run(task, how, seconds)
                    case [claim, fraction, text]:
                        progress[claim] = fraction, text
        return progress

    def _run(self) -> None:
        is_last = False
        while not is_last:
            time.sleep(TURN_S)
            if is_last := not threading.main_thread().is_alive():
                self._stop_at = 0
            try:
                self._turn()
            except (DatabaseError, InterfaceError) as error:
                logger.error("The database is unavailable: %s", error)
                connection.close()
            except Exception:
                # Without this thread no lease is renewed.
                logger.exception("The keeper of jobs failed.")

    def _turn(self) -> None:
        progress = self._read_reports()
        for job_id in list(state.revoked):
            with suppress(ValueError, Job.DoesNotExist, Conflict):
                jobs.cancel(Job(pk=uuid.UUID(job_id)))
            state.revoked.discard(job_id)  # else Celery would drop it if it is retried
        if self._renew.is_due():
            queue.renew_leases(self.node)
        living = self._pool.info["processes"] if self._pool._pool else []
        limits, self._limits = self._limits, {}
        for job in queue.held_by(self.node):
            claim, pid = Claim.of(job), int(job.worker.rpartition(":")[2])
            limit = limits.get(claim) or Limits(claim, pid, KILL_AFTER_S)
            self._limits[claim] = limit
            outcome = self._outcome(job, limit, is_living=pid in living)
            # First, as the process may take the next job at any moment.
            if outcome and completion.finish(claim, outcome):
                self._pool.terminate_job(pid, signal.SIGKILL)
                metrics.record_run(job.task, type(outcome).__name__, limit.elapsed_s)
            elif report := progress.get(claim.key):
                queue.record_progress(claim, *report)
        self._ended = {c: at for c, at in self._ended.items() if c in self._limits}
        if self._limits or self._stop_at == math.inf:
            self._exit_at = time.monotonic() + EXIT_S
        elif time.monotonic() > self._exit_at:
            os._exit(os.EX_OK)  # the main thread waits for a broker that hangs
        own = [*self._own, *living]
        self._adopted = process_tree.kill_adopted(own, self._adopted)

    def _outcome(self, job: Job, limits: Limits, *, is_living: bool) -> Outcome | None:
        """Return how a run ends from without, if it does."""
        if job.cancel_requested:
            return Cancelled()
        if time.monotonic() > self._stop_at:
            return Released()
        if is_living:
            return limits.find_exceeded()
        ended_at = self._ended.setdefault(limits.claim, time.monotonic())
        error = self._errors.pop(str(job.pk), None)
        if error is None and time.monotonic() < ended_at + UNREPORTED_S:
            return None
        if isinstance(error, TimeLimitExceeded):
            return running.time_limit_exceeded(limits.claim)
        why = str(error).partition(" Job:")[0] if error else "it was not reported why"
        return Failed(ErrorCode.CRASHED, f"Its process ended: {why}.", retry=True)


keeper = Keeper()
signals.worker_init.connect(keeper.set_up)
signals.worker_ready.connect(keeper.start)
signals.worker_shutting_down.connect(keeper.stop)
signals.task_failure.connect(keeper.on_failure)
