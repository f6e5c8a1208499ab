"""Measured functions of jobs, called by name."""

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Max, Min

from compute import jobs, queue
from compute.models import Job
from compute.registry import get_task
from tests.load import celery_peer
from tests.private_server import wait_for

PROCESSES = 2
LONGEST_S = 120


def delete_all() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE compute_job CASCADE")
    else:
        Job.objects.all().delete()


def _wait_for_all(longest_pause_s: float = 0.05) -> None:
    wait_for(lambda: not Job.objects.unfinished().exists(), LONGEST_S, longest_pause_s)


def _create(number: int) -> list[Job]:
    return Job.objects.bulk_create(
        Job(task="echo", params={"number": n}) for n in range(number)
    )


def submit(task: str, **params: Any) -> Job:
    chosen = get_task(task)
    serializer = chosen.params(data=params)
    serializer.is_valid(raise_exception=True)
    defaults = {"is_superuser": True}
    owner, _ = User.objects.get_or_create(username="measurer", defaults=defaults)
    return jobs.submit(task=chosen, params=serializer.validated_data, owner=owner)


# --- rates


def pool_rate(number: int) -> float:
    """Commit all jobs at once."""
    delete_all()
    with transaction.atomic():
        _create(number)
        queue.notify_workers()
    return _per_second(number)


def celery_rate(worker: int, number: int) -> float:
    """Suspend the worker until all messages are queued."""
    delete_all()
    created = _create(number)
    os.kill(worker, signal.SIGSTOP)
    try:
        for job in created:
            celery_peer.work.delay(str(job.pk))
    finally:
        os.kill(worker, signal.SIGCONT)
    return _per_second(number)


def _per_second(number: int) -> float:
    """Wait for all jobs; return their rate between the first start and the last end."""
    _wait_for_all()
    done = Job.objects.filter(state=Job.State.SUCCEEDED)
    assert done.count() == number, done.count()
    ends = done.aggregate(begin=Min("started_at"), end=Max("finished_at"))
    return number / (ends["end"] - ends["begin"]).total_seconds()


# --- one job at a time


def delays(number: int) -> list[tuple[float, float]]:
    """Submit to an idle pool: milliseconds to the start and to the end of each job."""
    return _one_by_one(number, lambda: submit("echo", number=1))


def celery_delays(number: int) -> list[tuple[float, float]]:
    def submit() -> Job:
        (job,) = _create(1)
        celery_peer.work.delay(str(job.pk))
        return job

    return _one_by_one(number, submit)


def _one_by_one(number: int, submit: Callable[[], Job]) -> list[tuple[float, float]]:
    delete_all()
    delays = []
    for _ in range(number):
        # At random times, independent of polling intervals.
        time.sleep(random.uniform(0.02, 0.08))
        job = submit()
        submitted = time.time()
        _wait_for_all()
        job.refresh_from_db()
        started_ms, ended_ms = (
            (moment.timestamp() - submitted) * 1000
            for moment in (job.started_at, job.finished_at)
        )
        delays.append((started_ms, ended_ms))
    return delays


# --- heavy jobs


def heavy_seconds(size: int) -> float:
    """Do a heavy computation, in parts if there is more than one process."""
    job = submit("heavy_computation", size=size)
    _wait_for_all(0.5)  # twenty questions a second took 3 % of two cores
    job.refresh_from_db()
    assert job.state == Job.State.SUCCEEDED, job.error_detail
    return (job.finished_at - job.started_at).total_seconds()


def saturate() -> None:
    """Keep the pool busy until `relieve`."""
    for _ in range(4):
        submit("heavy_computation", size=4_000_000_000)
    held = Job.objects.filter(state=Job.State.RUNNING, lease_until__isnull=False)
    parts = held.exclude(parent=None)
    wait_for(lambda: parts.count() == PROCESSES, LONGEST_S)


def relieve() -> None:
    for job in Job.objects.unfinished().filter(parent=None):
        jobs.cancel(job)
    _wait_for_all()
    time.sleep(0.5)  # killed processes are replaced
