"""Health check of the pool, from what the database shows.

An idle pool leaves no trace in the database, so a missing pool is detected only once
a job has waited for it.
"""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Coalesce, Now

from compute import metrics
from compute.models import Job, JobQuerySet
from resilient_site.health.components import CheckResult, Status
from resilient_site.operations.doctor import Finding, failure, ok, reach, warning
from resilient_site.resilience import deadlines

TIMEOUT_S = 2.0
# A running pool claims a job within half a second, and a lost one within three.
CLAIMED_WITHIN = timedelta(seconds=5)
RUNNING = "Jobs are being processed."
NO_POOL = "No pool is running. New jobs are accepted, and run once a pool is started."
FULL = "The queue is full. New jobs are rejected at the moment."


def check() -> CheckResult:
    with deadlines.within(TIMEOUT_S):
        held = Job.objects.filter(state=Job.State.RUNNING, lease_until__gte=Now())
        workers = list(held.values_list("worker", flat=True))
        due = Job.objects.claimable().order_by().count()
        waiting = Job.objects.waiting().count()
        is_stalled = not workers and _unclaimed().exists()
    metrics.record_queue(waiting=waiting, due=due, running=len(workers))
    if is_stalled:
        status, meaning = Status.FAIL, NO_POOL
    elif waiting >= settings.COMPUTE_MAX_QUEUED:
        status, meaning = Status.WARN, FULL
    else:
        status, meaning = Status.PASS, RUNNING
    figures = (
        ("Running jobs", f"{len(workers):,}"),
        ("Pools", f"{len(set(workers)):,}"),
        ("Waiting", f"{waiting:,} of at most {settings.COMPUTE_MAX_QUEUED:,}"),
        ("Due now, including parts", f"{due:,}"),
    )
    return CheckResult(status, meaning, figures=figures)


def _unclaimed() -> JobQuerySet:
    """Filter to the jobs that a pool would have claimed by now."""
    late = Now() - CLAIMED_WITHIN
    queued = Q(state=Job.State.QUEUED, due_at__lt=late)
    lost = Q(state=Job.State.RUNNING, lease_until__lt=late)
    due_at = Coalesce("run_after", "queued_at")
    return Job.objects.alias(due_at=due_at).filter(queued | lost)


def find_problems() -> Iterator[Finding]:
    """Check the jobs for `manage.py doctor`."""
    found = check()
    match found.status:
        case Status.FAIL:
            yield failure(found.meaning, "Start manage.py compute.")
        case Status.WARN:
            yield warning(found.meaning, "Start more pools, or wait.")
        case _:
            yield ok(". ".join(f"{name}: {text}" for name, text in found.figures))
    if settings.COMPUTE_BACKEND == "celery":
        yield reach(settings.BROKER_URL)
