"""Supervisor of the pool: claims jobs and runs them on its processes, in one loop.

If the database fails, running jobs continue, and their outcomes are held here until
they can be written. If that takes longer than a lease, another supervisor may have
claimed the job; then the outcome from here is dropped (see compute.completion). If this
process is killed, the kernel ends its worker processes, and the jobs are claimed again
after their lease. Processes are killed in compute.pool.worker_handle.
"""

import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Iterable

from django.conf import settings
from django.db import DatabaseError, DataError, InterfaceError, connection, transaction

from compute import completion, queue
from compute.outcomes import Cancelled, Outcome, Released
from compute.pool.process_tree import kill_strays
from compute.pool.wakeup import Wakeup
from compute.pool.worker_handle import WorkerHandle
from compute.pool.worker_process import Progress
from compute.queue import Claim
from resilient_site.operations.clean_up import clean_up

logger = logging.getLogger(__name__)

TURN_S = 0.25
# For jobs with a delay, and in case a notification was missed.
POLL_S = 0.5
DATABASE_RETRY_S = 0.5
CLEAN_S = 3600
# After a run that found something: it may have left some.
CLEAN_AGAIN_S = 30
# Behind a job that took less than this, others are prefetched: claimed before a process
# is free, as the database takes longer than they do. If they are as short, they are
# done within PREFETCHED_S.
SHORT_S = 0.01
PREFETCHED_S = 0.1
PREFETCH_MAX = 64
# Outcomes are written together, with the next claim, for so long.
BATCH_S = 0.02
# Claims that wait longer, behind jobs that turn out long, are released.
PREFETCH_S = 0.25


class Interval:
    """A repeated action that is due every `every_s` seconds, and at first at once."""

    def __init__(self, every_s: float) -> None:
        self.every_s, self.next = every_s, 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + self.every_s
        return True


class Supervisor:
    def __init__(self) -> None:
        self.worker_id = f"{socket.gethostname()[:50]}:{os.getpid()}:{uuid.uuid4().hex}"
        self.wakeup = Wakeup()
        self.workers = [WorkerHandle() for _ in range(settings.COMPUTE_PROCESSES)]
        self._stops: list[float] = []  # when it was called
        self._prefetched: deque[Claim] = deque()
        self._claimed_at = 0.0
        self._last_duration_s = SHORT_S
        self._unwritten: list[tuple[Claim, Outcome]] = []
        self._reported: dict[Claim, Progress] = {}
        self._may_have_jobs = True
        self._database_retry_at = 0.0
        self._database_is_down = False
        self._poll = Interval(POLL_S)
        self._renew = Interval(queue.LEASE_S / 4)
        self._clean = Interval(CLEAN_S)

    def run(self) -> None:
        """Run jobs until `stop` is called and the running jobs have finished."""
        try:
            while not self._has_stopped():
                self._turn()
        finally:
            self._shut_down()
            self.wakeup.close()

    def stop(self) -> None:
        """Claim no more jobs; stop once the running ones finish or grace time ends.

        A second call stops at once. Unfinished jobs return to the queue.
        """
        # One step, as the handler of a second signal may interrupt that of the first.
        self._stops.append(time.monotonic())
        self.wakeup.wake()

    @property
    def _stop_at(self) -> float | None:
        if len(self._stops) == 1:
            return self._stops[0] + settings.COMPUTE_GRACE_S
        return self._stops[1] if self._stops else None

    def _has_stopped(self) -> bool:
        if self._stop_at is None:
            return False
        busy = self._unwritten or any(worker.claim for worker in self.workers)
        return not busy or time.monotonic() >= self._stop_at

    def _turn(self) -> None:
        waitables = [one for worker in self.workers for one in worker.waitables()]
        if self.wakeup.wait(waitables, BATCH_S if self._prefetched else TURN_S):
            self._poll.next = 0
        for worker in self.workers:
            for outcome in worker.poll():
                self._last_duration_s = worker.duration_s
                self._unwritten.append(outcome)
            worker.enforce_limits()
            if self._stop_at is None:
                worker.start()
        self._kill_strays()
        is_overdue = time.monotonic() > self._claimed_at + PREFETCH_S
        if is_overdue or self._stop_at is not None:
            self._drop_prefetched(self._prefetched, Released())
        self._start_prefetched()
        if time.monotonic() < self._database_retry_at:
            return
        try:
            self._sync_with_database()
        except (DatabaseError, InterfaceError) as error:
            self._pause_database(error)
        else:
            if self._database_is_down:
                logger.warning("The database is available again.")
            self._database_is_down = False

    def _kill_strays(self) -> None:
        """Kill what the jobs of processes that have ended had started."""
        living = [worker.pid for worker in self.workers if worker.pid]
        for worker in self.workers:
            if worker.left_to and not kill_strays(worker.left_to, living):
                worker.left_to = 0

    def _drop_prefetched(self, claims: Iterable[Claim], outcome: Outcome) -> None:
        """Complete those of `claims` that have not been started."""
        for claim in set(claims).intersection(self._prefetched):
            self._prefetched.remove(claim)
            self._unwritten.append((claim, outcome))

    def _start_prefetched(self) -> None:
        for worker in self.workers:
            if worker.is_free and self._prefetched:
                worker.run(self._prefetched.popleft())

    def _sync_with_database(self) -> None:
        """Write outcomes, claim jobs, and do what is due by time."""
        is_due = self._poll.is_due()
        self._may_have_jobs |= is_due or bool(self._unwritten)
        wanted = self._free_capacity() if self._may_have_jobs else 0
        may_wait = self._prefetched and time.monotonic() < self._claimed_at + BATCH_S
        if (self._unwritten or wanted) and not may_wait:
            claims = self._write_and_claim(wanted)
            self._may_have_jobs = len(claims) >= wanted
            if claims:
                self._claimed_at = time.monotonic()
                self._prefetched.extend(claims)
                self._start_prefetched()
        if is_due:
            self._kill_cancelled()
            self._report_progress()
        if self._renew.is_due():
            self._renew_leases()
            completion.requeue_lost()
            completion.cancel_unawaited()
        if self._clean.is_due() and any(clean_up().values()):
            self._clean.next = time.monotonic() + CLEAN_AGAIN_S

    def _free_capacity(self) -> int:
        """Return how many jobs may be claimed."""
        if self._stop_at is not None:
            return 0
        free = sum(worker.is_free for worker in self.workers)
        if not free or self._last_duration_s >= SHORT_S:
            return free
        in_time = len(self.workers) * PREFETCHED_S / max(self._last_duration_s, 0.001)
        return free + min(int(in_time), PREFETCH_MAX)

    def _write_and_claim(self, wanted: int) -> list[Claim]:
        """Write outcomes and claim new jobs in one transaction."""
        try:
            with transaction.atomic():
                completion.finish_all(self._unwritten)
                claims = self._claim(wanted) if wanted else []
        except DataError:
            self._write_one_by_one()
            return []
        self._forget_written()
        return claims

    def _claim(self, wanted: int) -> list[Claim]:
        held = [worker.claim for worker in self.workers if worker.claim]
        anonymous = sum(claim.is_anonymous for claim in [*held, *self._prefetched])
        left = queue.anonymous_max() - anonymous
        return queue.claim(self.worker_id, wanted, anonymous=left)

    def _write_one_by_one(self) -> None:
        """Fail the job whose result the database rejects, and write the others."""
        for claim, outcome in self._unwritten:
            completion.finish_or_fail(claim, outcome)
        self._forget_written()

    def _forget_written(self) -> None:
        for claim, _ in self._unwritten:
            self._reported.pop(claim, None)
        self._unwritten.clear()

    def _renew_leases(self) -> None:
        held = set(queue.renew_leases(self.worker_id))
        for worker in self.workers:
            if worker.claim and worker.claim not in held:
                logger.warning(
                    "Job %s was claimed by another worker.", worker.claim.job_id
                )
                worker.kill(Released())
        self._drop_prefetched(set(self._prefetched) - held, Released())
        ours = {worker.claim for worker in self.workers}
        ours |= {claim for claim, _ in self._unwritten}
        for claim in held - ours - set(self._prefetched):
            # Claimed by a transaction whose reply was lost.
            completion.finish(claim, Released())

    def _kill_cancelled(self) -> None:
        if not self._prefetched and not any(worker.claim for worker in self.workers):
            return
        cancelled = queue.get_cancelled(self.worker_id)
        self._drop_prefetched(cancelled, Cancelled())
        for worker in self.workers:
            if worker.claim in cancelled:
                worker.kill(Cancelled())

    def _report_progress(self) -> None:
        for worker in self.workers:
            claim, progress = worker.claim, worker.progress
            if claim and progress and self._reported.get(claim) != progress:
                queue.record_progress(claim, progress.fraction, progress.message)
                self._reported[claim] = progress

    def _pause_database(self, error: Exception) -> None:
        if not self._database_is_down:
            logger.error("The database is unavailable: %s", error)
        self._database_is_down = True
        self._database_retry_at = time.monotonic() + DATABASE_RETRY_S
        connection.close()

    def _shut_down(self) -> None:
        """Kill the processes that run a job, and return their jobs to the queue."""
        self._drop_prefetched(self._prefetched, Released())
        for worker in self.workers:
            claim = worker.claim
            worker.close()
            if claim:
                self._unwritten.append((claim, Released()))
        self._kill_strays()
        try:
            self._write_and_claim(0)
        except (DatabaseError, InterfaceError) as error:
            # Their leases expire, and the jobs are claimed again.
            logger.error("Jobs could not be returned to the queue: %s", error)
        connection.close()
