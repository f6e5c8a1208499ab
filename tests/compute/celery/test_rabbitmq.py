"""Relay and workers on RabbitMQ: what is published, and each job completes once."""

import logging
import signal
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.utils import timezone

from compute import completion, jobs, queue
from compute.celery import relay
from compute.celery.app import BROKER_ERRORS, QUEUE, app
from compute.celery.relay import Relay
from compute.models import Job
from compute.outcomes import Released, Succeeded
from compute.pool.supervisor import Interval
from tests.compute.conftest import (
    all_ended,
    assert_each_completed_once,
    assert_jobs_go_on,
    ended,
    processes_of,
    running,
    runs_on,
)
from tests.faults.proxy import Proxy
from tests.private_server import alive, wait_for
from tests.servers import RabbitMQ, free_port
from tests.services_plugin import running as running_server

pytestmark = pytest.mark.once

WORKER = "-m", "celery", "-q", "-A", "compute.celery", "worker"


class ImpatientRabbitMQ(RabbitMQ):
    """One that closes a channel without an acknowledgement for three seconds."""

    def __init__(self) -> None:
        super().__init__()
        with (self.dir / "rabbitmq.conf").open("a") as conf:
            conf.write("consumer_timeout = 3000\n")
        self.env["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
            " -rabbit channel_tick_interval 500"  # of its check
        )


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    yield from running_server(ImpatientRabbitMQ)


@pytest.fixture
def broker(rabbitmq, monkeypatch) -> Iterator[RabbitMQ]:
    """A broker with an empty queue, which a test may kill and pause.

    The queue is kept: RabbitMQ cannot recover a quorum queue that was declared less
    than half a second before it is killed.
    """
    monkeypatch.setattr(app.conf, "broker_url", rabbitmq.url())
    messages()
    yield rabbitmq
    if rabbitmq.running():
        rabbitmq.resume()
    else:
        rabbitmq.start()


def messages() -> list[Any]:
    """Remove all messages from the queue, once no worker consumes, and return them."""
    with app.connection_for_read() as connection:
        found = app.amqp.queues[QUEUE].bind(connection.default_channel)
        wait_for(lambda: found.queue_declare().consumer_count == 0)
        return list(iter(lambda: found.get(no_ack=True), None))


def job_ids() -> list[str]:
    return [message.headers["id"] for message in messages()]


def delete_queue() -> None:
    with app.connection_for_read() as connection:
        connection.default_channel.queue_delete(QUEUE)


def waiting_messages() -> int:
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        return channel.queue_declare(QUEUE, passive=True).message_count


# --- the relay


@pytest.fixture
def make_relay(broker):
    relays = []

    def make():
        relays.append(Relay())
        return relays[-1]

    yield make
    for one in relays:
        one._disconnect()


def unpublished():
    return Job.objects.filter(handed_over_at=None).count()


def test_due_jobs_are_published_once_and_in_order(submit, make_relay):
    due = [submit("echo", number=number) for number in range(3)]
    later, cancelled = submit("echo"), submit("echo")
    Job.objects.filter(pk=later.pk).update(
        run_after=timezone.now() + timedelta(minutes=1)
    )
    jobs.cancel(cancelled)

    for _ in range(2):
        make_relay().turn()

    found = messages()
    assert [message.headers["id"] for message in found] == [str(job.pk) for job in due]
    args, kwargs, _ = found[0].decode()
    assert (args, kwargs) == ([str(due[0].pk)], {})
    assert found[0].properties["delivery_mode"] == 2
    assert set(Job.objects.filter(handed_over_at=None)) == {later, cancelled}


def test_anonymous_jobs_are_published_last_and_few_at_a_time(
    submit, make_relay, settings
):
    settings.COMPUTE_PROCESSES = 4
    one = make_relay()
    anonymous = [Job.objects.create(anonymous_client="somebody") for _ in range(3)]
    people = [submit("echo", number=number) for number in range(2)]
    one.turn()
    assert job_ids() == [str(job.pk) for job in [*people, *anonymous[:2]]]
    one.turn()
    assert job_ids() == []
    [claim] = queue.claim("someone", 1, anonymous[0].pk)
    one.turn()
    assert job_ids() == []  # it runs
    completion.finish(claim, Succeeded())
    one.turn()
    assert job_ids() == [str(anonymous[2].pk)]


def test_relay_is_woken_by_a_job(transactional_db, submit, make_relay):
    """At once: it polls after ten minutes."""
    one = make_relay()
    one._poll = Interval(600)
    thread = Thread(target=one.run)
    thread.start()
    try:
        for number in range(3):
            submit("echo", number=number)
            wait_for(lambda: unpublished() == 0)
    finally:
        one.stop()
        thread.join()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of the relay, without those of the breaker."""
    records = caplog.records
    return [one.getMessage() for one in records if one.name == "compute.celery.relay"]


def test_outage_of_the_broker_is_logged_once_while_jobs_wait(
    broker, submit, make_relay, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING, "compute")
    submit("echo")
    one = make_relay()
    monkeypatch.setattr(app.conf, "broker_url", f"amqp://127.0.0.1:{free_port()}")

    for _ in range(5):
        one.turn()

    assert unpublished() == 1
    [line] = logged(caplog)
    assert "the broker failed" in line
    assert "Connection refused" in line

    # The first available broker of several is used.
    several = f"amqp://127.0.0.1:{free_port()};{broker.url()}"
    monkeypatch.setattr(app.conf, "broker_url", several)
    one.turn()
    assert unpublished() == 0
    assert logged(caplog)[1:] == ["Jobs are published again."]


def test_hanging_broker_times_out(broker, submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()
    held_up = submit("echo")

    broker.pause()
    with pytest.raises(BROKER_ERRORS):
        one.publish_due()
    assert unpublished() == 1

    broker.resume()
    one.turn()
    if unpublished():
        one.turn()  # over a new connection
    assert job_ids()[-1] == str(held_up.pk)


def test_message_without_a_queue_does_not_count_as_published(submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()
    delete_queue()
    job = submit("echo")

    with pytest.raises(BROKER_ERRORS, match="NO_ROUTE"):
        one.publish_due()
    assert unpublished() == 1

    one.turn()
    one.turn()
    assert job_ids() == [str(job.pk)]


def test_relay_killed_before_marking_publishes_twice(submit, make_relay, monkeypatch):
    job = submit("echo")
    with monkeypatch.context() as patched:
        patched.setattr(relay, "_mark", lambda *args, **changes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_relay().publish_due()
    assert make_relay().publish_due() == 1
    assert job_ids() == [str(job.pk)] * 2


def test_requeued_job_is_published_again(submit, make_relay, monkeypatch):
    job, one = submit("echo"), make_relay()

    def requeue(*args: object) -> None:
        [claim] = queue.claim("someone", 1, job.pk)
        completion.finish(claim, Released())

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "_publish", requeue)
        one.publish_due()
    assert unpublished() == 1  # it is not marked: it was requeued meanwhile

    assert one.publish_due() == 1
    requeue()
    assert one.publish_due() == 1
    assert job_ids() == [str(job.pk)] * 2


def test_only_one_relay_publishes_at_a_time(submit, make_relay, other_connection):
    submit("echo")
    other_connection.execute("SELECT pg_advisory_xact_lock(%s)", [relay.LOCK])
    assert make_relay().publish_due() == 0

    other_connection.rollback()  # as the end of its process would
    assert make_relay().publish_due() == 1


def set_published(ago):
    """Backdate the publication of all jobs."""
    Job.objects.update(handed_over_at=timezone.now() - ago)


@pytest.mark.parametrize("lose", [messages, delete_queue])
def test_lost_messages_are_published_again(submit, make_relay, lose):
    one, job = make_relay(), submit("echo")
    one.publish_due()
    lose()

    one.requeue_lost()
    assert unpublished() == 0  # it may be in delivery

    set_published(relay.LOST_AFTER)
    one.requeue_lost()
    assert one.publish_due() == 1
    assert job_ids() == [str(job.pk)]


def test_waiting_messages_count_as_lost_after_a_long_time(submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()

    set_published(relay.LOST_FOR_CERTAIN_AFTER / 2)
    one.requeue_lost()
    assert unpublished() == 0

    set_published(relay.LOST_FOR_CERTAIN_AFTER)
    one.requeue_lost()
    assert unpublished() == 1


# --- workers


@pytest.fixture
def make_workers(broker, make_pools):
    env = {"COMPUTE_BACKEND": "celery", "BROKER_URL": broker.url()}
    env |= {"TEST_LOST_AFTER_S": "2", "COMPUTE_GRACE_S": "600"}
    return lambda *commands, **more: make_pools(1, *commands, **env | more)


def assert_left_to_others() -> None:
    """Assert that each queued job has a message, or is published by the next relay."""
    published = Job.objects.filter(state="queued").exclude(handed_over_at=None)
    wait_for(lambda: waiting_messages() >= published.count())


@pytest.mark.timeout(900)
def test_killed_and_stopped_workers_leave_their_jobs_to_others(
    broker, make_workers, submit, record, tmp_path
):
    """One worker has a relay, the other is started by Celery's own command."""
    worker, other = workers = make_workers(WORKER, TEST_LEASE_S="2")
    wait_for(lambda: all(" ready." in one.output() for one in workers))
    # None consumes before it can run a job.
    assert [len(one.workers()) for one in workers] == [2, 2]

    # The parts of a job run on both.
    gate = tmp_path / "parts"
    job = submit("in_parts", parts=4, seconds=300, gate=str(gate))
    held = job.parts.filter(state="running")
    wait_for(lambda: held.count() == 4)
    assert len(set(held.values_list("worker", flat=True))) == 2
    gate.touch()
    assert ended(job).result == {"sum": 14, "parts": 4}

    # The jobs of a killed worker run again. The broker gives no worker more messages
    # than it has processes: all others wait.
    gate = tmp_path / "killed"
    jobs = [submit("recorded", number=n, seconds=300, gate=str(gate)) for n in range(4)]
    jobs = [running(job) for job in jobs]
    of_killed = [job.pk for job in jobs if runs_on(job, worker)]
    assert len(of_killed) == 2
    for number in range(4, 24):
        submit("recorded", number=number)
    queued = Job.objects.filter(state="queued")
    wait_for(lambda: not queued.filter(handed_over_at=None).exists())
    wait_for(lambda: 20 <= waiting_messages() < 24)  # one may come twice
    worker.kill()
    worker.start()
    gate.touch()
    assert_each_completed_once(record)
    assert Job.objects.filter(pk__in=of_killed, attempts__gte=2).count() == 2

    # Stopped, they finish their jobs, and do not wait for a broker that hangs.
    gate = tmp_path / "stopped"
    jobs = [submit("nap", seconds=300, gate=str(gate)) for _ in range(4)]
    jobs = [running(job) for job in jobs]
    for number in range(5):
        submit("echo", number=number)
    broker.pause()
    for one in workers:
        one.process.terminate()
    gate.touch()
    assert [one.wait() for one in workers] == [0, 0]
    assert {job.state for job in all_ended(jobs)} == {"succeeded"}
    broker.resume()
    assert_left_to_others()
    assert "PendingDeprecation" not in worker.output() + other.output()


@pytest.mark.timeout(900)
def test_killed_broker_loses_no_job_and_duplicates_none(
    broker, make_workers, submit, record, gate
):
    worker, other = make_workers(("manage.py", "compute"))
    for number in range(40):
        submit("recorded", number=number)
    succeeded = Job.objects.filter(state="succeeded")
    wait_for(lambda: succeeded.count() > 10)

    broker.kill()
    for number in range(40, 80):
        job = submit("recorded", number=number)
    wait_for(lambda: "the broker failed" in worker.output() + other.output())
    job.refresh_from_db()
    assert (job.state, job.handed_over_at) == ("queued", None)
    assert other.stop() == 0
    broker.start()
    # A message that was delivered twice was run once.
    assert len(assert_each_completed_once(record)) == 80

    # A job that outlasts the broker's consumer timeout does not hold up others.
    running(submit("recorded", number=80, seconds=300, gate=str(gate)))
    wait_for(lambda: "PRECONDITION_FAILED" in worker.output())
    for number in range(81, 86):
        submit("recorded", number=number)
    wait_for(lambda: succeeded.count() == 85)
    gate.touch()
    assert len(assert_each_completed_once(record)) == 86
    wait_for(lambda: waiting_messages() == 0)

    # A second signal requeues running jobs at once.
    job = submit("leave_processes", end="loop")
    wait_for(lambda: len(processes_of(job, worker)) == 3)
    family = worker.workers()
    assert len(family) == 2
    worker.process.terminate()
    # Two signals of one kind could be merged into one.
    assert worker.stop(signal.SIGINT) == 0
    job.refresh_from_db()
    assert (job.state, job.attempts) == ("queued", 0)
    assert not any(process.is_running() for process in family)
    wait_for(lambda: not alive(processes_of(job, worker)))
    assert_left_to_others()


@pytest.mark.timeout(300)
def test_network_that_loses_connections_to_rabbitmq_stops_no_jobs(
    broker, make_pool, submit, record
):
    with closing(Proxy(broker.port)) as network:
        url = broker.url().replace(f":{broker.port}", f":{network.port}")
        worker = make_pool(COMPUTE_BACKEND="celery", BROKER_URL=url)
        assert_jobs_go_on(network, submit, record)
        assert worker.stop() == 0
