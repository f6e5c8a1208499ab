"""200 jobs under random kills of processes and servers: each completes once."""

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


def assert_each_completed_once() -> None:
    """Each job has one end, and the result and file of its last run."""
    assert Counter(Job.objects.values_list("state", flat=True)) == {"succeeded": JOBS}
    for job in Job.objects.all():
        assert job.result == {"number": job.params["number"], "epoch": job.epoch}
    # Each completed run has written a file.
    files = Counter(JobFile.objects.values_list("job", flat=True))
    assert len(files) == JOBS
    print(f"{sum(files.values()) - JOBS} runs were repeated")


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


def test_jobs_survive_kills_of_pool_processes(make_pool, submit, dice):
    pool = make_pool()
    for number in range(JOBS):
        submit("sign", number=number)
    for kill in range(KILLS):
        wait_for(lambda kill=kill: finished() > JOBS * kill // (KILLS + 2))
        with suppress(psutil.NoSuchProcess, IndexError):
            dice.choice(pool.workers()).kill()
    wait_for(lambda: finished() == JOBS, 60)
    assert_each_completed_once()


@pytest.mark.timeout(180)
def test_jobs_survive_kills_of_supervisors(make_pool, submit, dice):
    """Two supervisors share the queue and are killed in turns."""
    pools = [make_pool(TEST_LEASE_S="2"), make_pool(TEST_LEASE_S="2")]
    for number in range(JOBS):
        submit("sign", number=number)
    for kill in range(KILLS // 2):
        wait_for(lambda kill=kill: finished() > JOBS * kill // (KILLS // 2 + 2), 60)
        victim = dice.choice(pools)
        victim.kill()
        victim.start()
    wait_for(lambda: finished() == JOBS, 60)
    assert_each_completed_once()


def unless_down[T](query: Callable[[], T]) -> Callable[[], T | None]:
    """Wrap a query to return None while the database is down."""

    def wrapper() -> T | None:
        try:
            return query()
        except OperationalError:
            connection.close()
            return None

    return wrapper


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no server")
@pytest.mark.timeout(180)
def test_jobs_survive_outages_of_the_database(
    stoppable_database, postgres_own, tmp_path, dice
):
    """Killed, stopped and suspended for a while, each amid the jobs."""
    owner = User.objects.create_user("olga")
    for number in range(JOBS):
        jobs.submit(task=get_task("sign"), params={"number": number}, owner=owner)
    pool = Pool(stoppable_database, tmp_path).start()
    try:
        for share, fault in ((20, "kill"), (70, "stop"), (140, "pause")):
            wait_for(unless_down(lambda share=share: finished() > share), 60)
            getattr(postgres_own, fault)()
            time.sleep(dice.uniform(0, 3))  # the length of an outage
            postgres_own.resume() if fault == "pause" else postgres_own.start()
        wait_for(unless_down(lambda: finished() == JOBS), 60)
        assert_each_completed_once()
        assert pool.stop() == 0
    finally:
        pool.close()
        print(pool.output())
