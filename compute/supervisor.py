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
from typing import Protocol

from django.conf import settings
from django.db import DatabaseError, DataError, InterfaceError, connection, transaction

from compute import queue
from compute.child import Progress
from compute.outcomes import Code, Failed, HandedBack, Outcome
from compute.queue import Claim
from compute.slot import Slot
from compute.wakeup import Wakeup
from resilient_site.cleaning import clean_up

logger = logging.getLogger(__name__)

TURN_S = 0.25
DATABASE_PAUSE_S = 0.5


class Source(Protocol):
    """Where claims come from."""

    def take(self, worker: str, limit: int) -> list[Claim]: ...

    def ended(self, claim: Claim) -> None: ...


class Queue:
    """Claims of whatever is due in the database."""

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
        self._unwritten: list[tuple[Claim, Outcome]] = []
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
        has_news = self.wakeup.wait(waitables, TURN_S)
        for slot in self.slots:
            self._unwritten += slot.ended()
            slot.enforce_limit()
            if self._end_at is None:
                slot.start()
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

    def _settle(self) -> None:
        """Bring the database and the slots into step."""
        self._may_find_jobs |= self._look.is_due() or bool(self._unwritten)
        free = [slot for slot in self.slots if slot.is_free]
        wanted = len(free) if self._may_find_jobs and self._end_at is None else 0
        if self._unwritten or wanted:
            claims = self._write_and_take(wanted)
            self._may_find_jobs = len(claims) >= wanted
            for slot, claim in zip(free, claims, strict=False):
                slot.run(claim)
        if self._renew.is_due():
            self._renew_leases()
        if self._cancel.is_due():
            self._stop_cancelled()
        if self._report.is_due():
            self._report_progress()
        if self._sweep.is_due():
            queue.sweep()
        if self._clean.is_due():
            clean_up()

    def _write_and_take(self, wanted: int) -> list[Claim]:
        """End what has ended and take new jobs, in one transaction."""
        try:
            with transaction.atomic():
                for claim, outcome in self._unwritten:
                    self._finish(claim, outcome)
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
                self._finish(claim, outcome)
            except DataError as error:
                detail = f"The result cannot be stored: {error}"
                self._finish(claim, Failed(Code.ERROR, detail))
        self._forget_written()

    def _finish(self, claim: Claim, outcome: Outcome) -> None:
        if not queue.finish(claim, outcome):
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
        ours = {slot.claim for slot in self.slots}
        for claim in held - ours:
            # Taken by a transaction whose answer never came.
            queue.finish(claim, HandedBack())

    def _stop_cancelled(self) -> None:
        if not any(slot.claim for slot in self.slots):
            return
        stopped = queue.cancellations(self.worker)
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
        for slot in self.slots:
            claim = slot.claim
            slot.close()
            if claim:
                self._unwritten.append((claim, HandedBack()))
        try:
            self._write_and_take(0)
        except (DatabaseError, InterfaceError) as error:
            # The leases run out, and then others take the jobs all the same.
            logger.error("Jobs were not handed back: %s", error)
        connection.close()
