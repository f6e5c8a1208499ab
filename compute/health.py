"""Health check of the pool, from what the database shows.

An idle pool leaves no trace in the database, so a missing pool is detected only once
a job has waited for it.
"""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now
from django.utils import timezone

from compute import metrics
from compute.models import Job
from resilient_site.health.components import CheckResult, Status
from resilient_site.operations.doctor import Finding, failure, ok, reach, warning
from resilient_site.resilience import breakers, deadlines

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
        is_stalled = not workers and _lacks_pool()
    # A process of Celery's pool has a name of its own, with its id behind.
    pools = {tuple(name.split(":")[:3]) for name in workers}
    metrics.record_queue(waiting=waiting, due=due, running=len(workers))
    if is_stalled:
        status, meaning = Status.FAIL, NO_POOL
    elif waiting >= settings.COMPUTE_MAX_QUEUED:
        status, meaning = Status.WARN, FULL
    else:
        status, meaning = Status.PASS, RUNNING
    figures = (
        ("Running jobs", f"{len(workers):,}"),
        ("Pools", f"{len(pools):,}"),
        ("Waiting", f"{waiting:,} of at most {settings.COMPUTE_MAX_QUEUED:,}"),
        ("Due now, including parts", f"{due:,}"),
    )
    return CheckResult(status, meaning, figures=figures)


def _lacks_pool() -> bool:
    """Return whether jobs wait that a pool would have claimed, and none has worked."""
    database = breakers.database
    if database.opens and timezone.now() - database.since < CLAIMED_WITHIN:
        return False  # pools could not renew their leases
    moment = Now() - CLAIMED_WITHIN
    lost = Job.objects.filter(state=Job.State.RUNNING, lease_until__lt=moment)
    if not (lost.exists() or Job.objects.overdue(CLAIMED_WITHIN).exists()):
        return False
    # With Celery, there are moments at which none is running.
    done = Job.objects.exclude(state=Job.State.CANCELLED)
    return not done.filter(finished_at__gt=moment).exists()


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
