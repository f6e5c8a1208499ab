"""The supervisor: takes jobs and sees them through on its slots, in one loop.

The database may go away at any time. Jobs under way go on, and what they bring is kept
here until it can be written. If that takes longer than a lease, another supervisor may
have taken the job; then what came of it here is dropped.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterable
from typing import Protocol

from django.conf import settings
from django.db import DatabaseError, DataError, InterfaceError, connection, transaction

from compute import completion, queue
from compute.outcomes import Cancelled, Code, Failed, HandedBack, Outcome
from compute.pool import prefetch
from compute.pool.prefetch import Ahead
from compute.pool.wakeup import Wakeup
from compute.pool.worker_handle import Slot
from compute.pool.worker_process import Progress
from compute.queue import Claim
from resilient_site.operations.clean_up import clean_up

logger = logging.getLogger(__name__)

TURN_S = 0.25
# While jobs wait here that take no time, what has ended is written together.
HOLD_S = 0.02
DATABASE_PAUSE_S = 0.5


class Source(Protocol):
    """Where claims come from."""

    # Whether more may be taken than there are processes free.
    is_deep: bool

    def take(self, worker: str, limit: int) -> list[Claim]: ...

    def ended(self, claim: Claim) -> None: ...


class Queue:
    """Claims of whatever is due in the database."""

    is_deep = True

    def take(self, worker: str, limit: int) -> list[Claim]:
        return queue.claim(worker, limit)

    def ended(self, claim: Claim) -> None:
        """Do nothing: nobody waits for it."""


class Timer:
    def __init__(self, every_s: float) -> None:
        self.every_s, self.next = every_s, 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + self.every_s
        return True


class Supervisor:
    def __init__(self, *, source: Source, wakeup: Wakeup) -> None:
        self.worker = f"{socket.gethostname()[:50]}:{os.getpid()}:{uuid.uuid4().hex}"
        self.source, self.wakeup = source, wakeup
        self.slots = [Slot() for _ in range(settings.COMPUTE_PROCESSES)]
        self._end_at: float | None = None
        self._ahead = Ahead(len(self.slots))
        self._unwritten: list[tuple[Claim, Outcome]] = []
        self._unwritten_since = 0.0
        self._reported: dict[Claim, Progress] = {}
        self._may_find_jobs = True
        self._ask_database_at = 0.0
        self._database_is_away = False
        # For jobs whose time comes, and in case a wake-up was missed.
        self._look = Timer(0.5)
        self._cancel = Timer(0.5)
        self._report = Timer(0.25)
        self._renew = Timer(queue.LEASE_S / 4)
        self._sweep = Timer(1)
        self._clean = Timer(3600)

    def run(self) -> None:
        """Work until `stop` is called and the jobs under way have ended."""
        try:
            while not self._is_over():
                self._turn()
        finally:
            self._hand_back()
            self.wakeup.close()

    def stop(self) -> None:
        """Take no more jobs, and end with those under way or with the grace time.

        A second call ends it at once. What has not ended is handed back.
        """
        now = time.monotonic()
        first = self._end_at is None
        self._end_at = now + settings.COMPUTE_GRACE_S if first else now
        self.wakeup.ring()

    def _is_over(self) -> bool:
        if self._end_at is None:
            return False
        busy = self._unwritten or any(slot.claim for slot in self.slots)
        return not busy or time.monotonic() >= self._end_at

    def _turn(self) -> None:
        waitables = [thing for slot in self.slots for thing in slot.waitables()]
        has_news = self.wakeup.wait(waitables, HOLD_S if self._ahead else TURN_S)
        for slot in self.slots:
            for claim, outcome in slot.ended():
                self._ahead.note(slot.took_s)
                self._note_end(claim, outcome)
            slot.enforce_limit()
            if self._end_at is None:
                slot.start()
        is_ending = self._end_at is not None
        self._give_back(self._ahead if is_ending else self._ahead.overdue())
        self._run_next()
        if has_news:
            self._may_find_jobs = True
            self._cancel.next = 0
        if time.monotonic() < self._ask_database_at:
            return
        try:
            self._settle()
        except (DatabaseError, InterfaceError) as error:
            self._without_database(error)
        else:
            if self._database_is_away:
                logger.warning("The database is back.")
            self._database_is_away = False

    def _note_end(self, claim: Claim, outcome: Outcome) -> None:
        if not self._unwritten:
            self._unwritten_since = time.monotonic()
        self._unwritten.append((claim, outcome))

    def _give_back(self, claims: Iterable[Claim]) -> None:
        """Let others have what waits here in vain."""
        for claim in self._ahead.remove(claims):
            self._note_end(claim, HandedBack())

    def _run_next(self) -> None:
        """Give free slots what waits here."""
        for slot in self.slots:
            if slot.is_free and self._ahead:
                slot.run(self._ahead.next())

    def _settle(self) -> None:
        """Bring the database and the slots into step."""
        self._may_find_jobs |= self._look.is_due() or bool(self._unwritten)
        wanted = self._wanted() if self._may_find_jobs else 0
        if (self._unwritten or wanted) and not self._may_wait():
            claims = self._write_and_take(wanted)
            self._may_find_jobs = len(claims) >= wanted
            self._ahead.add(claims)
            self._run_next()
        if self._renew.is_due():
            self._renew_leases()
        if self._cancel.is_due():
            self._stop_cancelled()
        if self._report.is_due():
            self._report_progress()
        if self._sweep.is_due():
            completion.sweep()
        if self._clean.is_due():
            clean_up()

    def _wanted(self) -> int:
        if self._end_at is not None:
            return 0
        free = sum(slot.is_free for slot in self.slots)
        if not self.source.is_deep:
            return free
        return free + self._ahead.room(max(slot.busy_s for slot in self.slots))

    def _may_wait(self) -> bool:
        """Whether there is work enough here to write what has ended a little later."""
        held_s = time.monotonic() - self._unwritten_since
        few = len(self._unwritten) < prefetch.MOST
        return bool(self._ahead) and few and (held_s < HOLD_S or not self._unwritten)

    def _write_and_take(self, wanted: int) -> list[Claim]:
        """End what has ended and take new jobs, in one transaction."""
        try:
            with transaction.atomic():
                self._warn_of(completion.finish_all(self._unwritten))
                claims = self.source.take(self.worker, wanted) if wanted else []
        except DataError:
            self._write_one_by_one()
            return []
        self._forget_written()
        return claims

    def _write_one_by_one(self) -> None:
        """Fail the job whose result the database does not take, and write the rest."""
        for claim, outcome in self._unwritten:
            try:
                lost = completion.finish_all([(claim, outcome)])
            except DataError as error:
                detail = f"The result cannot be stored: {error}"
                lost = completion.finish_all([(claim, Failed(Code.ERROR, detail))])
            self._warn_of(lost)
        self._forget_written()

    def _warn_of(self, lost: list[Claim]) -> None:
        for claim in lost:
            logger.warning("Job %s was no longer ours to end.", claim.job_id)

    def _forget_written(self) -> None:
        for claim, _ in self._unwritten:
            self._reported.pop(claim, None)
            self.source.ended(claim)
        self._unwritten.clear()

    def _renew_leases(self) -> None:
        held = set(queue.renew(self.worker))
        for slot in self.slots:
            if slot.claim and slot.claim not in held:
                logger.warning("Job %s was taken by another.", slot.claim.job_id)
                slot.stop(HandedBack())
        for claim in self._ahead.remove(set(self._ahead) - held):
            logger.warning("Job %s was taken by another.", claim.job_id)
        ours = {slot.claim for slot in self.slots} | {c for c, _ in self._unwritten}
        for claim in held - ours - set(self._ahead):
            # Taken by a transaction whose answer never came.
            completion.finish(claim, HandedBack())

    def _stop_cancelled(self) -> None:
        if not self._ahead and not any(slot.claim for slot in self.slots):
            return
        stopped = queue.cancellations(self.worker)
        waiting = [one for one in self._ahead if stopped.get(one.job_id) == one.epoch]
        for claim in self._ahead.remove(waiting):
            self._note_end(claim, Cancelled())
        for slot in self.slots:
            if slot.claim and stopped.get(slot.claim.job_id) == slot.claim.epoch:
                slot.cancel()

    def _report_progress(self) -> None:
        for slot in self.slots:
            claim, progress = slot.claim, slot.progress
            if claim and progress and self._reported.get(claim) != progress:
                queue.report(claim, progress.fraction, progress.message)
                self._reported[claim] = progress

    def _without_database(self, error: Exception) -> None:
        if not self._database_is_away:
            logger.error("The database failed: %s", error)
        self._database_is_away = True
        self._ask_database_at = time.monotonic() + DATABASE_PAUSE_S
        connection.close()

    def _hand_back(self) -> None:
        """Kill what still runs, then let others have it."""
        self._give_back(self._ahead)
        for slot in self.slots:
            claim = slot.claim
            slot.close()
            if claim:
                self._note_end(claim, HandedBack())
        try:
            self._write_and_take(0)
        except (DatabaseError, InterfaceError) as error:
            # The leases run out, and then others take the jobs all the same.
            logger.error("Jobs were not handed back: %s", error)
        connection.close()
