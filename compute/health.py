"""How the pool is, as the database tells it.

A pool with nothing to do leaves no trace there: that none is at work is known when
something has been waiting for it.
"""

import time
from collections.abc import Callable

from django.conf import settings
from django.db.models.functions import Now

from compute.models import Job
from resilient_site.health.components import Figures, Finding, Part, Status, register
from resilient_site.resilience import deadlines

PATIENCE_S = 2.0
# A pool takes a job within half a second, and hears of a dead one after its lease.
TAKEN_WITHIN_S = 5.0
WELL = "What is asked for is worked on."
NOBODY = (
    "Nobody works on jobs at the moment. New ones are taken, and done when somebody "
    "works again."
)
FULL = "As many jobs are waiting as we take. New ones are refused for the moment."


class Jobs:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle_since: float | None = None
        # What was found last, for the metrics.
        self.counted: dict[str, int] = {}

    def check(self) -> Finding:
        with deadlines.within(PATIENCE_S):
            held = Job.objects.filter(
                state=Job.State.RUNNING, lease_until__gte=Now()
            ).values_list("worker", flat=True)
            workers = list(held)
            due = Job.objects.claimable().order_by().count()
            lost = Job.objects.abandoned().count()
            waiting = Job.objects.filter(state=Job.State.QUEUED, parent=None).count()
        self.counted = {"waiting": waiting, "due": due, "running": len(workers)}
        figures: Figures = (
            ("Jobs under way", f"{len(workers):,}"),
            ("Pools at work", f"{len(set(workers)):,}"),
            ("Waiting", f"{waiting:,} of at most {settings.COMPUTE_MAX_QUEUED:,}"),
            ("Due now, with parts", f"{due:,}"),
            ("Lost by their pool", f"{lost:,}"),
        )
        if self._nobody_works(bool(workers), bool(due or lost)):
            return Finding(Status.FAIL, NOBODY, figures=figures)
        if waiting >= settings.COMPUTE_MAX_QUEUED:
            return Finding(Status.WARN, FULL, figures=figures)
        return Finding(Status.PASS, WELL, figures=figures)

    def _nobody_works(self, at_work: bool, to_do: bool) -> bool:
        """Tell whether there has been work for a while that nobody took."""
        if at_work or not to_do:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = self._clock()
        return self._clock() - self._idle_since >= TAKEN_WITHIN_S


jobs = Jobs()


def register_all() -> None:
    register(Part("compute", "Jobs", "component", jobs.check))
