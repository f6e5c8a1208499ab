"""Deliveries: claims on the jobs that a broker has delivered."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event, Timer

import pytest
from django.db import transaction
from django.utils import timezone

from compute import completion, jobs, queue
from compute.celery.deliveries import Deliveries
from compute.models import Job
from compute.outcomes import Succeeded
from tests.private_server import wait_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]


class Wakeup:
    """A wakeup without a supervisor."""

    def __init__(self):
        self.was_called = Event()

    def wake(self):
        self.was_called.set()


@pytest.fixture
def deliveries():
    return Deliveries(Wakeup())


@pytest.fixture
def deliver(deliveries):
    """Deliver jobs, each in a thread of its own, as Celery does."""

    def deliver(*delivered):
        futures = [pool.submit(deliveries.deliver, job.pk) for job in delivered]
        wait_for(lambda: len(deliveries._waiting) >= len(delivered))
        assert deliveries._wakeup.was_called.is_set()
        return futures

    with ThreadPoolExecutor() as pool:
        yield deliver
        deliveries.close()


def test_message_of_a_claimed_job_is_acknowledged_at_its_end(
    deliveries, submit, deliver
):
    job, waiting = submit("echo"), submit("echo")
    first, second = deliver(job, waiting)

    [claim] = deliveries.take("me", 1)
    assert claim.job_id == job.pk
    assert not first.done()

    completion.finish(claim, Succeeded())
    deliveries.on_completed(claim)
    assert first.result(5) is True
    assert not second.done()


def test_messages_of_jobs_that_cannot_be_claimed_are_dropped(
    deliveries, submit, deliver
):
    elsewhere, ended, later, twice = (submit("echo") for _ in range(4))
    queue.claim("another", 1, elsewhere.pk)
    jobs.cancel(ended)
    Job.objects.filter(pk=later.pk).update(
        run_after=timezone.now() + timedelta(minutes=1)
    )
    *dropped, first, second = deliver(elsewhere, ended, later, twice, twice)

    [claim] = deliveries.take("me", 5)

    assert claim.job_id == twice.pk
    assert [future.result(5) for future in dropped] == [True, True, True]
    wait_for(lambda: first.done() or second.done())
    deliveries.on_completed(claim)
    assert [first.result(5), second.result(5)] == [True, True]


def test_claim_is_repeated_after_a_rollback(deliveries, submit, deliver):
    job = submit("echo")
    [future] = deliver(job)
    with transaction.atomic():
        assert len(deliveries.take("me", 1)) == 1
        transaction.set_rollback(True)

    assert not future.done()
    [claim] = deliveries.take("me", 1)
    assert (claim.job_id, claim.attempt) == (job.pk, 1)


def test_close_requeues_the_messages_of_unfinished_jobs(deliveries, submit, deliver):
    futures = deliver(submit("echo"), submit("echo"))
    deliveries.take("me", 1)
    deliveries.close()
    assert [future.result(5) for future in futures] == [False, False]
    assert deliveries.deliver(submit("echo").pk) is False


@pytest.mark.parametrize(("end", "claimed"), [("rollback", 1), ("commit", 0)])
def test_claim_of_one_job_waits_for_its_lock(submit, other_connection, end, claimed):
    """It fails if another takes the job meanwhile."""
    job = submit("echo")
    other_connection.execute(
        "UPDATE compute_job SET state = 'running', epoch = epoch + 1"
    )
    Timer(0.3, getattr(other_connection, end)).start()
    assert len(queue.claim("me", 1, job.pk)) == claimed
