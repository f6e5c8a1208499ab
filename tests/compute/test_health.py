"""Health check of the pool."""

from datetime import timedelta

import pytest
from django.utils import timezone

from compute.health import CLAIMED_WITHIN_S, JobsHealth
from compute.models import Job
from resilient_site.health.components import Status

pytestmark = [pytest.mark.django_db, pytest.mark.once]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> JobsHealth:
    return JobsHealth(clock)


def make_running(lease_s: float) -> Job:
    lease = timezone.now() + timedelta(seconds=lease_s)
    return Job.objects.create(
        task="primes", state=Job.State.RUNNING, worker="w", lease_until=lease
    )


def test_unclaimed_jobs_mean_that_no_pool_is_running(jobs, clock):
    idle = jobs.check()
    assert idle.status is Status.PASS
    assert dict(idle.figures)["Running jobs"] == "0"
    Job.objects.create(task="primes")
    assert jobs.check().status is Status.PASS
    clock.now += CLAIMED_WITHIN_S
    assert jobs.check().status is Status.FAIL
    running = make_running(10)
    found = jobs.check()
    assert found.status is Status.PASS
    assert dict(found.figures)["Pools"] == "1"
    running.delete()
    assert jobs.check().status is Status.PASS  # counted anew


def test_jobs_that_are_not_due_pass(jobs, clock):
    later = timezone.now() + timedelta(hours=1)
    Job.objects.create(task="primes", run_after=later)
    jobs.check()
    clock.now += CLAIMED_WITHIN_S
    assert jobs.check().status is Status.PASS


def test_abandoned_job_means_that_no_pool_is_running(jobs, clock):
    make_running(-1)
    jobs.check()
    clock.now += CLAIMED_WITHIN_S
    found = jobs.check()
    assert found.status is Status.FAIL
    assert dict(found.figures)["Abandoned by their pool"] == "1"


def test_full_queue_warns(jobs, settings):
    settings.COMPUTE_MAX_QUEUED = 1
    Job.objects.create(task="primes")
    found = jobs.check()
    assert found.status is Status.WARN
    assert dict(found.figures)["Waiting"] == "1 of at most 1"
