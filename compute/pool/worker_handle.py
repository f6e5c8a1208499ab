"""Worker handle: the supervisor's side of one pool process and of the job it runs.

Each process has its own pipe and shares nothing with the others, so that a crash, a
hang or a kill concerns one job. `WorkerHandle.kill` is the one place where the process
of a job is killed: when it is cancelled, passes a limit or loses its lease. The kernel
does so besides, see compute.pool.worker_process; and what the job has started ends with
it, see compute.pool.process_tree.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from compute import metrics, running
from compute.outcomes import ErrorCode, Failed, Outcome, Released
from compute.pool import fork_server, process_tree, worker_process
from compute.pool.worker_process import Done, Progress
from compute.queue import Claim
from resilient_site.observability import multiprocess

logger = logging.getLogger(__name__)

# A process ends itself at its time limit; one that cannot (it is suspended) is killed.
LIMIT_MARGIN_S = 1.0
# A process that ends before it has run a job is not replaced at once.
RESTART_DELAY_S = 1.0

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([fork_server.PRELOAD])


class WorkerHandle:
    def __init__(self) -> None:
        self.claim: Claim | None = None
        self.progress: Progress | None = None
        self.duration_s = 0.0  # of the last finished job
        # The fork server that may have adopted what the last process left behind.
        self.left_to = 0
        self._kill_outcome: Outcome | None = None
        self._limits: running.Limits | None = None
        self._start_at = 0.0
        self._has_run_job = False
        self._has_received = False  # its claim
        self._server = 0
        self._process: Any = None
        self._pipe: Connection[Any, Any] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_free(self) -> bool:
        alive = self._process is not None and self._kill_outcome is None
        return alive and self.claim is None

    def start(self) -> None:
        """Start a process if there is none, and the restart delay has passed."""
        if self._process is not None or time.monotonic() < self._start_at:
            return
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker_process.main, args=(theirs,), daemon=True
        )
        try:
            process.start()
        except (OSError, EOFError) as error:  # EOF: the fork server has died
            logger.error("A pool process could not be started: %r", error)
            self._start_at = time.monotonic() + RESTART_DELAY_S
            ours.close()
            return
        finally:
            theirs.close()
        metrics.POOL_PROCESSES_STARTED.inc()
        self._server = process_tree.parent_of(process.pid or 0)
        self._process, self._pipe = process, ours
        self._has_run_job, self._kill_outcome = False, None

    def run(self, claim: Claim) -> None:
        self.claim, self.progress, self._has_received = claim, None, True
        self._limits = running.Limits(claim, self.pid or 0, LIMIT_MARGIN_S)
        try:
            self._pipe.send(claim)  # type: ignore[union-attr]
        except OSError:
            self._release_unreceived()

    def kill(self, outcome: Outcome) -> None:
        """Kill the process; its job has this outcome, unless it has just finished."""
        if self._process is not None:
            self._kill_outcome = self._kill_outcome or outcome
            self._process.kill()

    def enforce_limits(self) -> None:
        """Kill the process at its limit of time, or of memory with its descendants."""
        is_running = self.claim is not None and self._kill_outcome is None
        outcome = self._limits.find_exceeded() if is_running and self._limits else None
        if outcome:
            self.kill(outcome)

    def waitables(self) -> list[Any]:
        if self._process is None:
            return []
        return [self._pipe, self._process.sentinel]

    def poll(self) -> Iterator[tuple[Claim, Outcome]]:
        """Read the messages of the process; yield its job if that has finished."""
        if self._process is None:
            return
        # Before its messages are read: else it could send one in between.
        has_ended = bool(wait([self._process.sentinel], 0))
        for message in self._messages():
            if isinstance(message, Progress):
                self.progress = message
            elif self.claim is not None:
                claim, self.claim, self._has_run_job = self.claim, None, True
                yield self._finished(claim, message.outcome)
                if message.retire:
                    self.close()
                    return
        if has_ended:
            yield from self._handle_exit()

    def close(self) -> None:
        """Kill the process, if there is one, and forget it."""
        if self._process is None:
            return
        if self._pipe is not None:
            self._pipe.close()
        self._process.kill()  # a process that retires may hang
        self._process.join()
        self._process.close()
        multiprocess.remove_dead()
        self._process = self._pipe = None
        self.left_to, self._server = self._server, 0

    def _messages(self) -> Iterator[Progress | Done]:
        try:
            while self._pipe and self._pipe.poll():
                yield self._pipe.recv()
        except ConnectionResetError:
            # So the kernel says that the other end of a socket has not read all.
            self._release_unreceived()
        except (EOFError, OSError):
            return  # the process has ended: its sentinel is ready

    def _release_unreceived(self) -> None:
        self._has_received = False
        self.kill(Released())

    def _finished(self, claim: Claim, outcome: Outcome) -> tuple[Claim, Outcome]:
        self.duration_s = self._limits.elapsed_s if self._limits else 0
        metrics.record_run(claim.task, type(outcome).__name__, self.duration_s)
        return claim, outcome

    def _handle_exit(self) -> Iterator[tuple[Claim, Outcome]]:
        exitcode = self._process.exitcode
        claim, self.claim = self.claim, None
        self.close()
        if claim is not None and self._has_received:
            logger.warning(
                "A pool process ended (%s) in job %s.", exitcode, claim.job_id
            )
        elif not self._has_run_job:
            logger.error("A pool process ended (%s) without a job.", exitcode)
            self._start_at = time.monotonic() + RESTART_DELAY_S
        if claim is not None:
            outcome = self._kill_outcome or _crashed(exitcode, claim)
            yield self._finished(claim, outcome)


def _crashed(exitcode: int | None, claim: Claim) -> Outcome:
    if exitcode == -signal.SIGALRM:
        return running.time_limit_exceeded(claim)
    if exitcode is not None and exitcode < 0:
        name = signal.strsignal(-exitcode) or -exitcode
        how = f"Its process was ended by a signal: {name}"
        if -exitcode == signal.SIGKILL:
            how += ", by an operator, or by the system when memory ran out"
    else:
        how = f"Its process exited (status {exitcode})"
    return Failed(ErrorCode.CRASHED, f"{how}.", retry=True)
