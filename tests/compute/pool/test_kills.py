"""Many jobs under random kills of processes and servers: each completes once."""

import random
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection

from compute.models import Job
from tests.compute import factories
from tests.compute.conftest import Pool, assert_each_completed_once
from tests.private_server import wait_for

JOBS = 120
KILLS = 6


def finished() -> int:
    return Job.objects.exclude(state__in=Job.UNFINISHED).count()


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.once  # their claims are those of the supervisor
def test_jobs_survive_kills_of_pool_processes(make_pool, submit, record, dice):
    pool = make_pool()
    for number in range(JOBS):
        submit("recorded", number=number, seconds=0.01)
    for kill in range(KILLS):
        wait_for(lambda kill=kill: finished() > JOBS * kill // (KILLS + 2))
        with suppress(psutil.NoSuchProcess, IndexError):
            dice.choice(pool.workers()).kill()
    assert_each_completed_once(record)


@pytest.mark.timeout(180)
def test_jobs_survive_kills_of_supervisors(make_pools, submit, record, dice):
    """Two supervisors share the queue and are killed in turns."""
    pools = make_pools(2, TEST_LEASE_S="1")
    for number in range(JOBS):
        submit("recorded", number=number, seconds=0.01)
    for kill in range(KILLS // 2):
        wait_for(lambda kill=kill: finished() > JOBS * kill // (KILLS // 2 + 2))
        victim = dice.choice(pools)
        victim.kill()
        victim.start()
    assert_each_completed_once(record)


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
    stoppable_database, postgres_own, tmp_path, record, dice
):
    """Killed, stopped and suspended for a while, each amid the jobs."""
    owner = User.objects.create_user("olga")
    for number in range(JOBS):
        factories.submit("recorded", owner, number=number, seconds=0.01)
    pool = Pool(stoppable_database, tmp_path).start()
    try:
        for share, fault in ((20, "kill"), (50, "stop"), (80, "pause")):
            wait_for(unless_down(lambda share=share: finished() > share))
            getattr(postgres_own, fault)()
            time.sleep(dice.uniform(0, 1))  # the length of an outage
            postgres_own.resume() if fault == "pause" else postgres_own.start()
        wait_for(unless_down(lambda: finished() == JOBS))
        assert_each_completed_once(record)
        assert pool.stop() == 0
    finally:
        pool.close()
