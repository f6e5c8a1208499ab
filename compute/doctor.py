"""Checks of jobs for `manage.py doctor`."""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from compute.health import CLAIMED_WITHIN_S
from compute.models import Job
from resilient_site.operations.doctor import (
    Finding,
    failure,
    ok,
    reach,
    register,
    warning,
)


def jobs() -> Iterator[Finding]:
    waiting = Job.objects.filter(state=Job.State.QUEUED, parent=None).count()
    limit = settings.COMPUTE_MAX_QUEUED
    summary = f"{waiting:,} jobs wait, of at most {limit:,}."
    if waiting >= limit:
        yield warning(summary, "New jobs are rejected. Start more pools, or wait.")
    else:
        yield ok(summary)
    overdue = Now() - timedelta(seconds=CLAIMED_WITHIN_S)
    running = Job.objects.filter(state=Job.State.RUNNING, lease_until__gte=Now())
    if running.exists():
        workers = running.values("worker").distinct().count()
        yield ok(f"{workers:,} pools are running jobs.")
    elif Job.objects.claimable().filter(queued_at__lt=overdue).exists():
        yield failure("No pool claims the waiting jobs.", "Start manage.py compute.")
    if settings.COMPUTE_BACKEND == "celery":
        yield reach(settings.BROKER_URL)


def register_all() -> None:
    register("jobs", jobs)
