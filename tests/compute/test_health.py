"""Health check of the pool."""

from datetime import timedelta

import pytest
from django.utils import timezone

from compute import completion, health, jobs, queue
from compute.models import Job
from compute.outcomes import Released
from resilient_site.health.components import Status
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker

pytestmark = pytest.mark.django_db

LATE = timedelta(hours=2)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """The check has time, and nothing is late that this test has just made."""
    monkeypatch.setattr(health, "TIMEOUT_S", 90)
    monkeypatch.setattr(health, "CLAIMED_WITHIN", timedelta(hours=1))


def make_job(state: str = "queued", **fields: object) -> Job:
    """A job that was queued, and due, two hours ago."""
    values = {"queued_at": timezone.now() - LATE} | fields
    return Job.objects.create(task="primes", state=state, **values)


def test_unclaimed_jobs_mean_that_no_pool_is_running():
    idle = health.check()
    assert idle.status is Status.PASS
    assert dict(idle.figures)["Running jobs"] == "0"
    make_job(queued_at=timezone.now())
    assert health.check().status is Status.PASS
    make_job()
    assert health.check().status is Status.FAIL
    make_job("running", worker="w", lease_until=timezone.now() + LATE)
    found = health.check()
    assert found.status is Status.PASS
    assert dict(found.figures)["Pools"] == "1"


def test_pool_that_has_just_finished_a_job_is_running():
    make_job()
    done = make_job("succeeded", finished_at=timezone.now())
    make_job("cancelled", finished_at=timezone.now())
    assert health.check().status is Status.PASS
    Job.objects.filter(pk=done.pk).update(finished_at=timezone.now() - LATE)
    assert health.check().status is Status.FAIL


def test_pools_have_time_to_renew_leases_after_an_outage(monkeypatch):
    database = Breaker("database")
    monkeypatch.setattr(breakers, "database", database)
    make_job("running", lease_until=timezone.now() - LATE)
    database.trip(OSError())
    database.reset()
    assert health.check().status is Status.PASS
    database.since -= LATE
    assert health.check().status is Status.FAIL


def test_jobs_that_have_just_become_due_pass():
    make_job(run_after=timezone.now() + LATE)
    released, cancelled = make_job(), make_job()
    (claim,) = queue.claim("worker", 1, released.pk)
    completion.finish(claim, Released())
    jobs.cancel(cancelled)
    assert jobs.retry(cancelled)
    assert health.check().status is Status.PASS


def test_abandoned_job_means_that_no_pool_is_running():
    make_job("running", lease_until=timezone.now() - LATE)
    assert health.check().status is Status.FAIL


@pytest.mark.once
def test_full_queue_warns(settings):
    settings.COMPUTE_MAX_QUEUED = 1
    make_job(queued_at=timezone.now())
    found = health.check()
    assert found.status is Status.WARN
    assert dict(found.figures)["Waiting"] == "1 of at most 1"
