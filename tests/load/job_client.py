"""Measured functions of jobs, called by name."""

import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Max, Min

from compute import job_events, jobs, queue
from compute.models import Job
from compute.pool.worker_handle import WorkerHandle
from compute.queue import Claim, Step
from compute.registry import get_task
from tests.load import celery_peer

PROCESSES = 2
_loop = asyncio.Runner()


def delete_all() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE compute_job CASCADE")
    else:
        Job.objects.all().delete()


def _all_finished() -> bool:
    return not Job.objects.unfinished().exists()


def _until(condition: Callable[[], bool], every_s: float = 0.1) -> None:
    """Poll at a low rate."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every_s)


def _create(number: int) -> list[Job]:
    return Job.objects.bulk_create(
        Job(task="echo", params={"number": n}) for n in range(number)
    )


def _per_second(number: int) -> float:
    """Wait for all jobs; return their rate between the first start and the last end."""
    _until(_all_finished)
    done = Job.objects.filter(state=Job.State.SUCCEEDED)
    assert done.count() == number, done.count()
    ends = done.aggregate(begin=Min("started_at"), end=Max("finished_at"))
    return number / (ends["end"] - ends["begin"]).total_seconds()


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


def processes_rate(number: int) -> float:
    """Measure processes and pipes without a database."""
    handles = [WorkerHandle() for _ in range(PROCESSES)]
    try:
        _feed(handles, PROCESSES * 10)
        begin = time.perf_counter()
        _feed(handles, number)
        return number / (time.perf_counter() - begin)
    finally:
        for handle in handles:
            handle.close()


def _feed(handles: list[WorkerHandle], number: int) -> None:
    claims = iter([_claim(n) for n in range(number)])
    finished = 0
    while finished < number:
        for handle in handles:
            handle.start()
            if handle.is_free and (claim := next(claims, None)):
                handle.run(claim)
        wait([thing for handle in handles for thing in handle.waitables()])
        finished += sum(1 for handle in handles for _ in handle.poll())


def _claim(number: int) -> Claim:
    return Claim(
        job_id=uuid.uuid4(),
        epoch=1,
        task="echo",
        params={"number": number},
        attempt=1,
        owner_id=None,
        request_id="",
        parent_id=None,
        traceparent="",
        step=Step.MAIN,
    )


# --- one job at a time


def delays(number: int) -> list[tuple[float, float]]:
    """Submit to an idle pool: milliseconds to the start and to the end of each job."""
    return _one_by_one(number, lambda: _submit("echo", number=1))


def celery_delays(number: int) -> list[tuple[float, float]]:
    return _one_by_one(number, _submit_to_celery)


def _submit_to_celery() -> Job:
    (job,) = _create(1)
    celery_peer.work.delay(str(job.pk))
    return job


def _one_by_one(number: int, submit: Callable[[], Job]) -> list[tuple[float, float]]:
    delete_all()
    delays = []
    for _ in range(number):
        # At random times, independent of polling intervals.
        time.sleep(random.uniform(0.02, 0.08))
        job = submit()
        submitted = time.time()
        _until(_all_finished, every_s=0.01)
        job.refresh_from_db()
        started_ms, ended_ms = (
            (moment.timestamp() - submitted) * 1000
            for moment in (job.started_at, job.finished_at)
        )
        delays.append((started_ms, ended_ms))
    return delays


def wait_delays(number: int) -> list[float]:
    """Wait for a job as a request with `Prefer: wait` does: milliseconds."""
    times = []
    for _ in range(number):
        time.sleep(random.uniform(0.02, 0.08))
        job = _submit("echo", number=1)
        begin = time.perf_counter()
        _loop.run(_finished(job.pk))
        times.append((time.perf_counter() - begin) * 1000)
    return times


async def _finished(job_id: uuid.UUID) -> None:
    await job_events.watcher().finished(job_id)


def _submit(task: str, **params: Any) -> Job:
    chosen = get_task(task)
    serializer = chosen.params(data=params)
    serializer.is_valid(raise_exception=True)
    owner, _ = User.objects.get_or_create(username="measurer")
    return jobs.submit(task=chosen, params=serializer.validated_data, owner=owner)


# --- heavy jobs


def heavy_seconds(size: int) -> float:
    """Do a heavy computation, in parts if there is more than one process."""
    job = _submit("heavy_computation", size=size)
    _loop.run(_finished(job.pk))
    job.refresh_from_db()
    assert job.state == Job.State.SUCCEEDED, job.error_detail
    assert job.started_at
    assert job.finished_at
    return (job.finished_at - job.started_at).total_seconds()


def saturate() -> None:
    """Keep the pool busy until `relieve`."""
    for _ in range(4):
        _submit("heavy_computation", size=4_000_000_000)
    held = Job.objects.filter(state=Job.State.RUNNING, lease_until__isnull=False)
    _until(lambda: held.exclude(parent=None).count() == PROCESSES)


def relieve() -> None:
    for job in Job.objects.unfinished().filter(parent=None):
        jobs.cancel(job)
    _until(_all_finished)
    time.sleep(0.5)  # killed processes are replaced
