"""Health check of the pool, from what the database shows.

An idle pool leaves no trace in the database, so a missing pool is detected only once
a job has waited for it.
"""

import time
from collections.abc import Callable

from django.conf import settings
from django.db.models.functions import Now

from compute.models import Job
from resilient_site.health.components import (
    CheckResult,
    Component,
    Figures,
    Status,
    register,
)
from resilient_site.resilience import deadlines

TIMEOUT_S = 2.0
# A running pool claims a job within half a second.
CLAIMED_WITHIN_S = 5.0
RUNNING = "Jobs are being processed."
NO_POOL = "No pool is running. New jobs are accepted, and run once a pool is started."
FULL = "The queue is full. New jobs are rejected at the moment."


class JobsHealth:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle_since: float | None = None
        # The last counts, for the metrics.
        self.counted: dict[str, int] = {}

    def check(self) -> CheckResult:
        with deadlines.within(TIMEOUT_S):
            held = Job.objects.filter(
                state=Job.State.RUNNING, lease_until__gte=Now()
            ).values_list("worker", flat=True)
            workers = list(held)
            due = Job.objects.claimable().order_by().count()
            lost = Job.objects.abandoned().count()
            waiting = Job.objects.filter(state=Job.State.QUEUED, parent=None).count()
        self.counted = {"waiting": waiting, "due": due, "running": len(workers)}
        figures: Figures = (
            ("Running jobs", f"{len(workers):,}"),
            ("Pools", f"{len(set(workers)):,}"),
            ("Waiting", f"{waiting:,} of at most {settings.COMPUTE_MAX_QUEUED:,}"),
            ("Due now, including parts", f"{due:,}"),
            ("Abandoned by their pool", f"{lost:,}"),
        )
        if self._lacks_pool(bool(workers), bool(due or lost)):
            return CheckResult(Status.FAIL, NO_POOL, figures=figures)
        if waiting >= settings.COMPUTE_MAX_QUEUED:
            return CheckResult(Status.WARN, FULL, figures=figures)
        return CheckResult(Status.PASS, RUNNING, figures=figures)

    def _lacks_pool(self, has_workers: bool, has_due: bool) -> bool:
        """Return whether due jobs have remained unclaimed for too long."""
        if has_workers or not has_due:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = self._clock()
        return self._clock() - self._idle_since >= CLAIMED_WITHIN_S


jobs = JobsHealth()


def register_all() -> None:
    register(Component("compute", "Jobs", "component", jobs.check))
