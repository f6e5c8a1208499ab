"""200 jobs, and somebody who kills at random: each job ends once."""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection

from compute import jobs
from compute.models import Job, JobFile
from compute.registry import get_task
from tests.compute.conftest import Pool
from tests.private_server import wait_for

JOBS = 200
KILLS = 8


def finished() -> int:
    return Job.objects.exclude(state__in=Job.UNFINISHED).count()


def check() -> None:
    """Every job has one end, and one result, which is that of its last run."""
    assert Counter(Job.objects.values_list("state", flat=True)) == {"succeeded": JOBS}
    for job in Job.objects.all():
        assert job.result == {"number": job.params["number"], "epoch": job.epoch}
    # Each run that came to its end has signed; the job names one of them.
    signed = Counter(JobFile.objects.values_list("job", flat=True))
    assert len(signed) == JOBS
    again = sum(signed.values()) - JOBS
    print(f"{again} runs came to their end in vain")


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


def test_killed_pool_processes(pool, submit, dice):
    for number in range(JOBS):
        submit("sign", number=number)
    for kill in range(KILLS):
        wait_for(lambda kill=kill: finished() > JOBS * kill // (KILLS + 2))
        with suppress(psutil.NoSuchProcess, IndexError):
            dice.choice(pool.workers()).kill()
    wait_for(lambda: finished() == JOBS, 60)
    check()


@pytest.mark.timeout(180)
def test_killed_supervisors(make_pool, submit, dice):
    """Two share the queue; now one dies, now the other."""
    pools = [make_pool(), make_pool()]
    for number in range(JOBS):
        submit("sign", number=number)
    for kill in range(KILLS // 2):
        wait_for(lambda kill=kill: finished() > JOBS * kill // (KILLS // 2 + 2))
        victim = dice.choice(pools)
        victim.kill()
        victim.start()
    wait_for(lambda: finished() == JOBS, 60)
    check()


def test_a_job_whose_supervisor_was_killed_is_taken_up_within_15_s(make_pool, submit):
    pool = make_pool()
    job = submit("nap", seconds=30)
    wait_for(lambda: Job.objects.get(pk=job.pk).state == "running")
    pool.kill()
    killed_at = time.monotonic()
    make_pool()
    wait_for(lambda: Job.objects.get(pk=job.pk).epoch == 2, 20)
    assert time.monotonic() - killed_at < 15


def persistently[T](ask: Callable[[], T]) -> Callable[[], T | None]:
    """Ask the database; None while it does not answer."""

    def asked() -> T | None:
        try:
            return ask()
        except OperationalError:
            connection.close()
            return None

    return asked


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no server")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["kill", "stop", "pause"])
def test_a_database_that_goes_away(
    fault, stoppable_database, postgres_own, tmp_path, dice
):
    """Killed, restarted, or frozen for a while, in the middle of the jobs."""
    owner = User.objects.create_user("olga")
    for number in range(JOBS):
        jobs.submit(task=get_task("sign"), params={"number": number}, owner=owner)
    pool = Pool(stoppable_database, tmp_path / "pool.log").start()
    try:
        for share in (20, 70, 140):
            wait_for(persistently(lambda share=share: finished() > share), 60)
            getattr(postgres_own, fault)()
            time.sleep(dice.uniform(0, 3))  # how long an outage is
            postgres_own.resume() if fault == "pause" else postgres_own.start()
        wait_for(persistently(lambda: finished() == JOBS), 60)
        check()
        assert pool.stop() == 0
    finally:
        pool.close()
        print(pool.output())
