"""One place in the pool: a process, and the job that it works on.

Each place has a process and a pipe of its own, nothing is shared: what happens to one
cannot stop another.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from compute import metrics
from compute.outcomes import Cancelled, Code, Failed, Outcome
from compute.pool import worker_process
from compute.pool.worker_process import Done, Progress
from compute.queue import Claim
from compute.registry import tasks

logger = logging.getLogger(__name__)

# The process ends itself at its limit; one that cannot (it is stopped) is ended then.
LIMIT_MARGIN_S = 1.0
# A process that ends before it has done anything is not started again at once.
RESTART_PAUSE_S = 1.0

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["compute.pool.preload"])


class Slot:
    def __init__(self) -> None:
        self.claim: Claim | None = None
        self.progress: Progress | None = None
        self.took_s = 0.0  # the job that ended last
        self._verdict: Outcome | None = None
        self._deadline = self._began = 0.0
        self._start_at = 0.0
        self._served = False
        self._process: Any = None
        self._pipe: Connection[Any, Any] | None = None

    @property
    def is_free(self) -> bool:
        alive = self._process is not None and self._verdict is None
        return alive and self.claim is None

    @property
    def busy_s(self) -> float:
        """Return how long its job has been under way; 0 if it has none."""
        return time.monotonic() - self._began if self.claim else 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Have a process, if it is time for one."""
        if self._process is not None or time.monotonic() < self._start_at:
            return
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker_process.main, args=(theirs,), daemon=True
        )
        try:
            process.start()
        except (OSError, EOFError) as error:  # EOF: the fork server died meanwhile
            logger.error("A pool process could not be started: %r", error)
            self._start_at = time.monotonic() + RESTART_PAUSE_S
            ours.close()
            return
        finally:
            theirs.close()
        metrics.note_process()
        self._process, self._pipe = process, ours
        self._served, self._verdict = False, None

    def run(self, claim: Claim) -> None:
        self.claim, self.progress = claim, None
        task = tasks.get(claim.task)
        limit = task.time_limit_s if task else 0
        self._began = time.monotonic()
        self._deadline = self._began + limit + LIMIT_MARGIN_S
        try:
            self._pipe.send(claim)  # type: ignore[union-attr]
        except OSError:
            logger.warning("A pool process died before it got its job.")

    def stop(self, verdict: Outcome) -> None:
        """Kill the process; its job, unless it has just ended, ends like this."""
        if self._process is not None:
            self._verdict = self._verdict or verdict
            self._process.kill()

    def cancel(self) -> None:
        self.stop(Cancelled())

    def enforce_limit(self) -> None:
        if self.claim and time.monotonic() > self._deadline:
            self.stop(self._too_long())

    def waitables(self) -> list[Any]:
        if self._process is None:
            return []
        return [self._pipe, self._process.sentinel]

    def ended(self) -> Iterator[tuple[Claim, Outcome]]:
        """Take in what the process has sent; yield the job if it has ended."""
        if self._process is None:
            return
        for message in self._messages():
            if isinstance(message, Progress):
                self.progress = message
            elif self.claim is not None:
                claim, self.claim, self._served = self.claim, None, True
                yield self._noted(claim, message.outcome)
                if message.retire:
                    self._discard()
                    return
        if self._process is not None and wait([self._process.sentinel], 0):
            yield from self._dead()

    def _noted(self, claim: Claim, outcome: Outcome) -> tuple[Claim, Outcome]:
        self.took_s = time.monotonic() - self._began
        metrics.note_end(claim, outcome, self.took_s)
        return claim, outcome

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._discard()

    def _messages(self) -> Iterator[Progress | Done]:
        try:
            while self._pipe and self._pipe.poll():
                yield self._pipe.recv()
        except (EOFError, OSError):
            return  # the process has gone: its sentinel tells how

    def _dead(self) -> Iterator[tuple[Claim, Outcome]]:
        exitcode = self._process.exitcode
        claim, self.claim = self.claim, None
        self._discard()
        if claim is not None:
            logger.warning(
                "A pool process ended (%s) in job %s.", exitcode, claim.job_id
            )
            yield self._noted(claim, self._verdict or self._crash(exitcode, claim))
        elif not self._served:
            logger.error("A pool process ended (%s) without a job.", exitcode)
            self._start_at = time.monotonic() + RESTART_PAUSE_S

    def _discard(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process.kill()  # it may hang where it should have ended
        self._process.join()
        self._process.close()
        self._process = self._pipe = None

    def _crash(self, exitcode: int | None, claim: Claim) -> Outcome:
        if exitcode == -signal.SIGALRM:
            return self._too_long(claim)
        if exitcode is not None and exitcode < 0:
            how = f"Its process was ended by {_name(-exitcode)}"
            if -exitcode == signal.SIGKILL:
                how += ": by an operator, or by the system for want of memory"
        else:
            how = f"Its process ended by itself (status {exitcode})"
        return Failed(Code.CRASHED, f"{how}.", retry=True)

    def _too_long(self, claim: Claim | None = None) -> Outcome:
        claim = claim or self.claim
        task = tasks.get(claim.task) if claim else None
        limit = f"{task.time_limit_s:g} s" if task else "its time"
        return Failed(Code.TIME_LIMIT, f"It took longer than the {limit} it may take.")


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # most real-time signals have none
        return f"signal {signum}"
