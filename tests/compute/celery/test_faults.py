"""Deaths and stops of workers and brokers: each job completes once."""

import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from compute.models import Job
from tests.compute.celery import brokers
from tests.compute.celery.conftest import consuming
from tests.compute.conftest import (
    all_ended,
    assert_each_completed_once,
    ended,
    running,
)
from tests.private_server import wait_for
from tests.servers import RabbitMQ

pytestmark = pytest.mark.once


def succeeded():
    return Job.objects.filter(state="succeeded").count()


def test_killed_broker_loses_no_job_and_duplicates_none(
    broker, make_workers, submit, record
):
    make_workers(broker.url(), 2)
    for number in range(40):
        submit("recorded", number=number)
    wait_for(lambda: succeeded() > 10)

    broker.kill()
    for number in range(40, 80):
        submit("recorded", number=number)
    broker.start()

    # A message that was delivered twice was run once.
    assert len(assert_each_completed_once(record)) == 80


def test_jobs_wait_while_the_broker_is_down(broker, make_workers, submit):
    broker.stop()
    worker, other = make_workers(broker.url(), 2)
    job = submit("echo", number=1)
    wait_for(lambda: "the broker failed" in worker.output() + other.output())
    job.refresh_from_db()
    assert (job.state, job.handed_over_at) == ("queued", None)
    assert other.stop() == 0

    broker.start()
    assert ended(job).state == "succeeded"


def test_hanging_broker_does_not_prevent_a_stop(broker, make_worker, submit):
    worker = make_worker(broker.url(), COMPUTE_GRACE_S="1")
    job = running(submit("nap", seconds=60))
    broker.pause()
    assert worker.stop() == 0
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 0)


def test_jobs_of_a_killed_worker_run_on_another(
    url, make_workers, submit, record, gate
):
    killed, other = workers = make_workers(url, 2, TEST_LEASE_S="1")
    consuming(workers)
    # The broker gives no worker more messages than it has processes.
    waiting = {"seconds": 60, "gate": str(gate)}
    held = [submit("recorded", number=number, **waiting) for number in range(4)]
    held = [running(job) for job in held]
    pids = Counter(job.worker.split(":")[1] for job in held)
    assert pids == {str(killed.pid): 2, str(other.pid): 2}
    for number in range(4, 24):
        submit("recorded", number=number)

    killed.kill()
    gate.touch()

    assert_each_completed_once(record)
    repeated = [job.pk for job in held if f":{killed.pid}:" in job.worker]
    assert Job.objects.filter(pk__in=repeated, attempts__gte=2).count() == 2


def test_parts_run_on_several_workers(url, make_workers, submit, gate):
    workers = make_workers(url, 2)
    consuming(workers)
    # None consumes before it can run a job.
    assert [len(worker.workers()) for worker in workers] == [2, 2]
    job = submit("in_parts", parts=4, seconds=60, gate=str(gate))
    held = job.parts.filter(state="running")
    wait_for(lambda: held.count() == 4)
    assert len(set(held.values_list("worker", flat=True))) == 2
    gate.touch()
    assert ended(job).result == {"sum": 14, "parts": 4}


def assert_left_to_others(url: str) -> None:
    """Assert that each queued job has a message, or is published by the next relay."""
    published = Job.objects.filter(state="queued").exclude(handed_over_at=None)
    wait_for(lambda: brokers.count(url) >= published.count())


def test_stop_lets_running_jobs_finish_and_leaves_the_rest_to_others(
    url, make_worker, submit, gate
):
    worker = make_worker(url)
    held = [running(submit("nap", seconds=60, gate=str(gate))) for _ in range(2)]
    for number in range(5):
        submit("echo", number=number)

    worker.process.terminate()
    gate.touch()
    assert worker.wait() == 0

    assert {job.state for job in all_ended(held)} == {"succeeded"}
    assert_left_to_others(url)


def test_second_signal_requeues_running_jobs_at_once(url, make_worker, submit):
    worker = make_worker(url, COMPUTE_GRACE_S="600")
    job = running(submit("nap", seconds=60))
    family = worker.workers()
    assert len(family) == 2

    worker.process.terminate()
    # Two signals of one kind could be merged into one.
    assert worker.stop(signal.SIGINT) == 0
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 0)
    assert not any(process.is_running() for process in family)
    assert_left_to_others(url)


@pytest.fixture
def impatient_broker(rabbitmq_server) -> Iterator[RabbitMQ]:
    """A RabbitMQ that closes a channel without an acknowledgement for a second."""
    broker = RabbitMQ()
    with (broker.dir / "rabbitmq.conf").open("a") as conf:
        conf.write("consumer_timeout = 1000\n")
    broker.env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
        " -rabbit channel_tick_interval 500"  # of its check
    )
    try:
        yield broker.start()
    finally:
        broker.close()


def test_job_may_outlast_the_consumer_timeout_of_the_broker(
    impatient_broker, make_worker, submit, record, gate
):
    worker = make_worker(impatient_broker.url())
    running(submit("recorded", number=1, seconds=60, gate=str(gate)))
    wait_for(lambda: "PRECONDITION_FAILED" in worker.output())
    for number in range(5):
        submit("recorded", number=number)
    wait_for(lambda: succeeded() >= 5)
    gate.touch()

    assert len(assert_each_completed_once(record)) == 6
    wait_for(lambda: brokers.count(impatient_broker.url()) == 0)
    assert worker.is_running()


def test_redis_as_a_broker_loses_no_job_when_it_forgets_all(
    redis_own, make_worker, submit, record, gate
):
    worker = make_worker(redis_own.url())
    busy = [running(submit("nap", seconds=60, gate=str(gate))) for _ in range(2)]
    for number in range(10):
        submit("recorded", number=number)
    unpublished = Job.objects.filter(state="queued", handed_over_at=None)
    wait_for(lambda: not unpublished.exists())
    redis_own.kill()
    for number in range(10, 20):
        submit("recorded", number=number)
    # Their messages cannot be acknowledged, and were all that the worker may hold.
    gate.touch()
    assert {job.state for job in all_ended(busy)} == {"succeeded"}
    redis_own.start()  # empty

    assert len(assert_each_completed_once(record)) == 20
    assert worker.stop() == 0
