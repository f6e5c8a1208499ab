"""What `manage.py doctor` says of jobs."""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from compute.health import TAKEN_WITHIN_S
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
    most = settings.COMPUTE_MAX_QUEUED
    said = f"{waiting:,} jobs wait, of at most {most:,}."
    if waiting >= most:
        yield warning(said, "New ones are refused. Start more pools, or wait.")
    else:
        yield ok(said)
    overdue = Now() - timedelta(seconds=TAKEN_WITHIN_S)
    running = Job.objects.filter(state=Job.State.RUNNING, lease_until__gte=Now())
    if running.exists():
        workers = running.values("worker").distinct().count()
        yield ok(f"{workers:,} pools are at work.")
    elif Job.objects.claimable().filter(queued_at__lt=overdue).exists():
        yield failure("Nobody takes the jobs that wait.", "Start manage.py compute.")
    if settings.COMPUTE_BACKEND == "celery":
        yield reach(settings.BROKER_URL)


def register_all() -> None:
    register("jobs", jobs)
