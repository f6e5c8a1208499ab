"""What a worker does with the jobs that a broker has delivered."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event, Timer

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone

from compute import completion, jobs, queue
from compute.celery.deliveries import Deliveries
from compute.models import Job
from compute.outcomes import Succeeded
from tests.private_server import wait_for

needs_row_locks = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="SQLite locks no rows"
)


@pytest.fixture
def other():
    """A second connection to the database."""
    params = connection.get_connection_params()
    with psycopg.connect(**params) as other:
        yield other


class Bell:
    """Stands for a supervisor that sleeps."""

    def __init__(self):
        self.rung = Event()

    def wake(self):
        self.rung.set()


@pytest.fixture
def deliveries():
    return Deliveries(Bell())


@pytest.fixture
def deliver(deliveries):
    """Deliver jobs, each in a thread of its own, as Celery does."""

    def deliver(*delivered):
        futures = [pool.submit(deliveries.deliver, job.pk) for job in delivered]
        wait_for(lambda: len(deliveries._waiting) >= len(delivered))
        assert deliveries._wakeup.rung.is_set()
        return futures

    with ThreadPoolExecutor() as pool:
        yield deliver
        deliveries.close()


def test_a_delivered_job_is_taken_and_its_message_kept_to_the_end(
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


def test_what_cannot_be_had_is_dropped(deliveries, submit, deliver):
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


def test_what_was_undone_is_tried_again(deliveries, submit, deliver):
    job = submit("echo")
    [future] = deliver(job)
    with transaction.atomic():
        assert len(deliveries.take("me", 1)) == 1
        transaction.set_rollback(True)

    assert not future.done()
    [claim] = deliveries.take("me", 1)
    assert (claim.job_id, claim.attempt) == (job.pk, 1)


def test_at_the_end_messages_are_given_back(deliveries, submit, deliver):
    futures = deliver(submit("echo"), submit("echo"))
    deliveries.take("me", 1)
    deliveries.close()
    assert [future.result(5) for future in futures] == [False, False]
    assert deliveries.deliver(submit("echo").pk) is False


@needs_row_locks
def test_a_named_job_that_is_locked_is_waited_for(submit, other):
    job = submit("echo")
    other.execute("SELECT * FROM compute_job FOR UPDATE")
    Timer(0.3, other.rollback).start()
    assert [claim.job_id for claim in queue.claim("me", 1, job.pk)] == [job.pk]


@needs_row_locks
def test_a_named_job_that_is_taken_while_it_is_waited_for_is_not_to_be_had(
    submit, other
):
    job = submit("echo")
    other.execute("UPDATE compute_job SET state = 'running', epoch = epoch + 1")
    Timer(0.3, other.commit).start()
    assert queue.claim("me", 1, job.pk) == []
