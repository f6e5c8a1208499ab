"""Workers behind a broker: what happens to jobs when either of them dies."""

import signal
import subprocess
import time
from collections import Counter

import pytest

from compute import jobs
from compute.celery.relay import LOST_AFTER
from compute.models import Job
from tests.compute import (
    brokers,
    recorded,  # noqa: F401 - a task of the workers, in this process too
)
from tests.compute.conftest import all_ended, ended, running
from tests.private_server import BUSY_S, wait_for

# On PostgreSQL alone: what a broker is for is a site on several machines.
pytestmark = pytest.mark.once


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record"
    path.touch()
    return path


@pytest.fixture
def make_worker(make_pool, record):
    """Start a worker of two processes, with its relay."""

    def make(url, **env):
        return make_pool(
            COMPUTE_BACKEND="celery",
            BROKER_URL=url,
            COMPUTE_TASKS="tests.compute.faults,tests.compute.recorded",
            RECORD=str(record),
            **env,
        )

    return make


@pytest.fixture
def url(rabbitmq_server):
    """A broker without a queue."""
    brokers.delete_queue(rabbitmq_server.url())
    return rabbitmq_server.url()


@pytest.fixture
def worker(make_worker, url):
    return make_worker(url)


def assert_each_ended_once(submitted, record):
    """Each has the result of its last run, and no run was begun by two workers."""
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


def test_a_killed_broker_loses_no_job_and_doubles_none(
    rabbitmq_own, make_worker, submit, record
):
    for _ in range(2):
        make_worker(rabbitmq_own.url())
    submitted = [submit("recorded", number=number) for number in range(100)]
    wait_for(lambda: succeeded() > 20)

    rabbitmq_own.kill()
    submitted += [submit("recorded", number=number) for number in range(100, 200)]
    assert succeeded() < 150
    rabbitmq_own.start()

    runs = assert_each_ended_once(submitted, record)
    assert len(runs) == 200  # what was delivered twice was run once


def test_jobs_wait_for_a_broker_that_is_away(rabbitmq_own, make_worker, submit):
    rabbitmq_own.stop()
    worker, other = (make_worker(rabbitmq_own.url()) for _ in range(2))
    job = submit("echo", number=1)
    wait_for(lambda: "the broker failed" in worker.output())
    job.refresh_from_db()
    assert (job.state, job.handed_over_at) == ("queued", None)
    assert other.stop() == 0

    rabbitmq_own.start()
    back = time.monotonic()
    assert ended(job).state == "succeeded"
    assert time.monotonic() - back < 5


def test_a_broker_that_hangs_does_not_hold_up_a_stop(rabbitmq_own, make_worker, submit):
    worker = make_worker(rabbitmq_own.url(), COMPUTE_GRACE_S="1")
    job = running(submit("nap", seconds=30))
    rabbitmq_own.pause()
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 10
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 0)


def test_a_killed_worker_leaves_its_jobs_to_another(url, make_worker, submit, record):
    killed, other = make_worker(url), make_worker(url)
    submitted = [submit("recorded", number=n, seconds=0.1) for n in range(60)]

    def of(worker, state):
        return Job.objects.filter(worker__contains=f":{worker.pid}:", state=state)

    wait_for(lambda: all(of(one, "succeeded").count() > 2 for one in (killed, other)))
    wait_for(of(killed, "running").exists)
    killed.kill()

    assert_each_ended_once(submitted, record)
    workers = Counter(job.worker.split(":")[1] for job in Job.objects.all())
    assert min(workers[str(killed.pid)], workers[str(other.pid)]) > 2
    assert max(Job.objects.values_list("attempts", flat=True)) == 2


def test_bad_jobs_fail_and_the_worker_goes_on(worker, submit):
    neighbour = running(submit("nap", seconds=5))
    expected = {
        "segfault": ("failed", 2, "crashed"),
        "eat_memory": ("failed", 1, "memory_limit"),
        "too_long_in_c": ("failed", 1, "time_limit"),
        "raise_error": ("failed", 2, "error"),
    }
    bad = all_ended(submit(task) for task in expected)
    seen = {job.task: (job.state, job.attempts, job.error_code) for job in bad}
    assert seen == expected
    assert ended(submit("echo", number=1)).state == "succeeded"
    neighbour = ended(neighbour)
    assert (neighbour.state, neighbour.attempts) == ("succeeded", 1)


def test_jobs_in_parts_are_spread_and_put_together(url, make_worker, submit):
    for _ in range(2):
        make_worker(url)
    job = ended(submit("in_parts", parts=8, seconds=0.5))
    assert (job.state, job.result) == ("succeeded", {"sum": 140, "parts": 8})
    assert len(set(job.parts.values_list("worker", flat=True))) == 2


def test_jobs_are_cancelled_within_a_second(worker, submit):
    busy = [running(submit("endless_c_loop")) for _ in range(2)]
    waiting = submit("echo", number=1)
    wait_for(lambda: Job.objects.filter(pk=waiting.pk).exclude(handed_over_at=None))
    asked = time.monotonic()
    for job in (waiting, *busy):
        jobs.cancel(job)
    assert {job.state for job in all_ended([waiting, *busy])} == {"cancelled"}
    assert time.monotonic() - asked < 1 + BUSY_S
    assert ended(submit("echo", number=2)).state == "succeeded"
    waiting.refresh_from_db()
    assert waiting.attempts == 0


def test_jobs_whose_messages_are_purged_are_handed_over_again(
    worker, submit, url, record
):
    busy = [running(submit("endless_c_loop")) for _ in range(2)]
    submitted = [submit("recorded", number=number) for number in range(5)]
    wait_for(lambda: brokers.count(url) == 5)
    assert len(brokers.messages(url)) == 5
    purged = time.monotonic()
    for job in busy:
        jobs.cancel(job)

    runs = assert_each_ended_once(submitted, record)
    assert len(runs) == 5
    assert time.monotonic() - purged < LOST_AFTER.total_seconds() + 5


def test_a_stop_lets_running_jobs_end_and_takes_no_more(url, make_worker, submit):
    worker = make_worker(url)
    started = [running(submit("nap", seconds=2)) for _ in range(2)]
    waiting = [submit("echo", number=number) for number in range(5)]

    assert worker.stop() == 0

    assert [ended(job).state for job in started] == ["succeeded", "succeeded"]
    left = Job.objects.filter(pk__in=[job.pk for job in waiting], state="queued")
    assert left.count() >= 3  # a stop is noticed within half a second
    make_worker(url)
    assert {job.state for job in all_ended(waiting)} == {"succeeded"}


def test_a_stop_hands_back_what_does_not_end(url, make_worker, submit):
    worker = make_worker(url, COMPUTE_GRACE_S="1")
    job = running(submit("nap", seconds=30))

    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 5
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 0)

    make_worker(url)
    assert running(job).attempts == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(worker, submit, signum):
    job = running(submit("nap", seconds=30))
    family = worker.workers()
    assert len(family) == 2

    worker.process.send_signal(signum)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(1.5)
    again = time.monotonic()
    assert worker.stop(signum) == 0
    assert time.monotonic() - again < 3 + BUSY_S
    job.refresh_from_db()
    assert job.state == "queued"
    assert not any(process.is_running() for process in family)


def test_a_job_may_take_longer_than_the_broker_waits_for_its_end(
    rabbitmq_own, make_worker, submit, record
):
    rabbitmq_own.stop()
    with (rabbitmq_own.dir / "rabbitmq.conf").open("a") as conf:
        conf.write("consumer_timeout = 1000\n")
    rabbitmq_own.env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
        " -rabbit channel_tick_interval 500"  # how often the broker looks
    )
    rabbitmq_own.start()
    worker = make_worker(rabbitmq_own.url())

    job = running(submit("recorded", number=1, seconds=6))
    wait_for(lambda: "PRECONDITION_FAILED" in worker.output())
    others = [submit("recorded", number=number) for number in range(5)]
    wait_for(lambda: succeeded() == 5)
    assert running(job).attempts == 1

    runs = assert_each_ended_once([job, *others], record)
    assert len(runs) == 6
    wait_for(lambda: brokers.count(rabbitmq_own.url()) == 0)
    assert worker.process.poll() is None


def test_redis_is_a_broker_too_even_when_it_forgets(
    redis_own, make_worker, submit, record
):
    worker = make_worker(redis_own.url())
    job = ended(submit("crash_once"))
    assert (job.state, job.attempts) == ("succeeded", 2)

    busy = [running(submit("nap", seconds=2)) for _ in range(2)]
    submitted = [submit("recorded", number=number) for number in range(20)]
    handed_over = Job.objects.filter(state="queued", handed_over_at=None)
    wait_for(lambda: not handed_over.exists())
    redis_own.kill()
    submitted += [submit("recorded", number=number) for number in range(20, 40)]
    redis_own.start()  # with nothing in it

    runs = assert_each_ended_once(submitted, record)
    assert len(runs) == 40
    assert {job.state for job in all_ended(busy)} == {"succeeded"}
    assert worker.stop() == 0
