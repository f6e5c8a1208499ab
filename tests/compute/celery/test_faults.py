"""Deaths and stops of workers and brokers: each job completes once."""

import signal
import subprocess
from collections import Counter

import pytest

from compute.models import Job
from tests.compute.celery import brokers
from tests.compute.celery.conftest import consuming
from tests.compute.conftest import all_ended, ended, running
from tests.private_server import wait_for

pytestmark = pytest.mark.once


def assert_each_completed_once(submitted, record):
    """Each has the result of its last run, and two workers never started one run."""
    done = all_ended(submitted)
    assert Counter(job.state for job in done) == {"succeeded": len(submitted)}
    results = {(job.result["number"], job.result["epoch"]) for job in done}
    assert results == {(job.params["number"], job.epoch) for job in done}
    runs = Counter(record.read_text().splitlines())
    assert set(runs.values()) == {1}
    assert {f"{job.pk} {job.epoch}" for job in done} <= set(runs)
    return runs


def succeeded():
    return Job.objects.filter(state="succeeded").count()


def test_killed_broker_loses_no_job_and_duplicates_none(
    broker, make_worker, submit, record
):
    for _ in range(2):
        make_worker(broker.url())
    submitted = [submit("recorded", number=number) for number in range(100)]
    wait_for(lambda: succeeded() > 20)

    broker.kill()
    submitted += [submit("recorded", number=number) for number in range(100, 200)]
    broker.start()

    runs = assert_each_completed_once(submitted, record)
    assert len(runs) == 200  # a message delivered twice was run once


def test_jobs_wait_while_the_broker_is_down(broker, make_worker, submit):
    broker.stop()
    worker, other = (make_worker(broker.url()) for _ in range(2))
    job = submit("echo", number=1)
    wait_for(lambda: "the broker failed" in worker.output())
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


def test_jobs_of_a_killed_worker_run_on_another(url, make_worker, submit, record, gate):
    killed, other = (make_worker(url, TEST_LEASE_S="1") for _ in range(2))
    consuming(killed, other)
    # The broker gives no worker more messages than it has processes.
    waiting = {"seconds": 60, "gate": str(gate)}
    held = [submit("recorded", number=number, **waiting) for number in range(4)]
    held = [running(job) for job in held]
    pids = Counter(job.worker.split(":")[1] for job in held)
    assert pids == {str(killed.pid): 2, str(other.pid): 2}
    submitted = [submit("recorded", number=number) for number in range(4, 24)]

    killed.kill()
    gate.touch()

    assert_each_completed_once([*held, *submitted], record)
    for job in held:
        was_killed = f":{killed.pid}:" in job.worker
        job.refresh_from_db()
        assert job.attempts == 1 + was_killed


def test_parts_run_on_several_workers(url, make_worker, submit, gate):
    workers = [make_worker(url) for _ in range(2)]
    consuming(*workers)
    # None consumes before it can run a job.
    assert [len(worker.workers()) for worker in workers] == [2, 2]
    job = submit("in_parts", parts=4, seconds=60, gate=str(gate))
    held = job.parts.filter(state="running")
    wait_for(lambda: held.count() == 4)
    assert len(set(held.values_list("worker", flat=True))) == 2
    gate.touch()
    assert ended(job).result == {"sum": 14, "parts": 4}


def test_stop_lets_running_jobs_finish_and_takes_no_more(url, make_worker, submit):
    worker = make_worker(url)
    started = [running(submit("nap", seconds=2)) for _ in range(2)]
    waiting = [submit("echo", number=number) for number in range(5)]

    assert worker.stop() == 0

    assert [ended(job).state for job in started] == ["succeeded", "succeeded"]
    make_worker(url)
    assert {job.state for job in all_ended(waiting)} == {"succeeded"}


def test_stop_requeues_what_does_not_finish(url, make_worker, submit):
    worker = make_worker(url, COMPUTE_GRACE_S="1")
    job = running(submit("nap", seconds=60))

    assert worker.stop() == 0
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 0)

    make_worker(url)
    assert running(job).attempts == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_second_signal_stops_at_once(url, make_worker, submit, signum):
    worker = make_worker(url, COMPUTE_GRACE_S="600")
    job = running(submit("nap", seconds=60))
    family = worker.workers()
    assert len(family) == 2

    worker.process.send_signal(signum)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(1.5)
    assert worker.stop(signum) == 0
    job.refresh_from_db()
    assert job.state == "queued"
    assert not any(process.is_running() for process in family)


def test_job_may_outlast_the_consumer_timeout_of_the_broker(
    rabbitmq_own, make_worker, submit, record
):
    with (rabbitmq_own.dir / "rabbitmq.conf").open("a") as conf:
        conf.write("consumer_timeout = 1000\n")
    rabbitmq_own.env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
        " -rabbit channel_tick_interval 500"  # of the broker's check
    )
    rabbitmq_own.restart()
    worker = make_worker(rabbitmq_own.url())

    job = running(submit("recorded", number=1, seconds=6))
    wait_for(lambda: "PRECONDITION_FAILED" in worker.output())
    others = [submit("recorded", number=number) for number in range(5)]
    wait_for(lambda: succeeded() >= 5)

    runs = assert_each_completed_once([job, *others], record)
    assert len(runs) == 6
    wait_for(lambda: brokers.count(rabbitmq_own.url()) == 0)
    assert worker.is_running()


def test_redis_as_a_broker_loses_no_job_when_it_forgets_all(
    redis_own, make_worker, submit, record
):
    worker = make_worker(redis_own.url())
    job = ended(submit("crash_once"))
    assert (job.state, job.attempts) == ("succeeded", 2)

    busy = [running(submit("nap", seconds=2)) for _ in range(2)]
    submitted = [submit("recorded", number=number) for number in range(20)]
    unpublished = Job.objects.filter(state="queued", handed_over_at=None)
    wait_for(lambda: not unpublished.exists())
    redis_own.kill()
    submitted += [submit("recorded", number=number) for number in range(20, 40)]
    # Their messages cannot be acknowledged, and were all that the worker may hold.
    assert {job.state for job in all_ended(busy)} == {"succeeded"}
    redis_own.start()  # empty

    runs = assert_each_completed_once(submitted, record)
    assert len(runs) == 40
    assert worker.stop() == 0
