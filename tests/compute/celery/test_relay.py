"""Relay: which jobs it publishes to RabbitMQ, and when it does so again."""

import logging
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from compute import completion, jobs, queue
from compute.celery import relay
from compute.celery.relay import BROKER_ERRORS, Relay
from compute.models import Job
from compute.outcomes import Released, Succeeded
from resilient_site.celery import app
from resilient_site.resilience import breakers
from tests.compute import factories
from tests.compute.celery.conftest import QUEUE, messages
from tests.private_server import wait_for
from tests.servers import free_port

pytestmark = pytest.mark.once


def job_ids() -> list[str]:
    return [message.headers["id"] for message in messages()]


def delete_queue() -> None:
    with app.connection_for_read() as connection:
        connection.default_channel.queue_delete(QUEUE)


@pytest.fixture
def make_relay(broker, monkeypatch):
    """Relays of the test's own; no job is lost and no lease expires by itself."""
    monkeypatch.setattr(queue, "LOST_AFTER", timedelta(minutes=10))
    monkeypatch.setattr(queue, "LEASE_S", 600)
    relays = []

    def make():
        relays.append(Relay())
        return relays[-1]

    yield make
    for one in relays:
        one.disconnect()
        one.wakeup.close()
    breakers.broker.reset()


def unpublished():
    return Job.objects.filter(handed_over_at=None).count()


def test_due_jobs_are_published_once_in_order_and_with_their_limits(submit, make_relay):
    due = [submit("echo", number=number) for number in range(2)]
    due.append(submit("too_long"))
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
    assert [message.headers["timelimit"] for message in found] == [
        [603, 600], [603, 600], [4, 1],
    ]  # fmt: skip
    assert set(Job.objects.filter(handed_over_at=None)) == {later, cancelled}


def test_anonymous_jobs_are_published_last_and_few_at_a_time(
    submit, make_relay, settings
):
    settings.COMPUTE_PROCESSES = 4
    one = make_relay()
    awaited = {"created_at": timezone.now() + timedelta(hours=1)}
    anonymous = [
        Job.objects.create(anonymous_client="somebody", **awaited) for _ in range(3)
    ]
    people = [submit("echo", number=number) for number in range(2)]
    one.turn()
    assert job_ids() == [str(job.pk) for job in [*people, *anonymous[:2]]]
    one.turn()
    assert job_ids() == []
    [claim] = queue.claim("someone", 1, anonymous[0].pk)
    one.turn()
    assert job_ids() == []  # it runs
    # Its message seemed lost while the job was claimed.
    Job.objects.filter(pk=claim.job_id).update(handed_over_at=None)
    one.turn()
    assert job_ids() == []
    completion.finish(claim, Succeeded())
    one.turn()
    assert job_ids() == [str(anonymous[2].pk)]


def test_relay_is_woken_by_a_job(transactional_db, submit, make_relay, monkeypatch):
    """At once: it polls after ten minutes."""
    monkeypatch.setattr(relay, "POLL_S", 600)
    one = make_relay()

    def run() -> None:
        one.run()
        connection.close()

    thread = Thread(target=run)
    thread.start()
    try:
        for number in range(3):
            submit("echo", number=number)
            wait_for(lambda: unpublished() == 0)
    finally:
        one.stop()
        thread.join()


def test_jobs_wait_while_the_broker_is_down(
    broker, submit, make_relay, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    submit("echo")
    one = make_relay()
    monkeypatch.setattr(app.conf, "broker_url", f"amqp://127.0.0.1:{free_port()}")

    for _ in range(5):
        assert not one.turn()

    assert unpublished() == 1
    assert breakers.broker.state == "open"
    [line] = [text for text in caplog.messages if "breaker for the broker" in text]
    assert "opened" in line
    assert "Connection refused" in line

    # The first available broker of several is used.
    several = f"amqp://127.0.0.1:{free_port()};{broker.url()}"
    monkeypatch.setattr(app.conf, "broker_url", several)
    assert one.turn()
    assert unpublished() == 0
    assert breakers.broker.state == "closed"


def test_leases_expire_while_the_broker_is_down(submit, make_relay, monkeypatch):
    job = factories.make_job("running", lease_until=timezone.now() - timedelta(1))
    monkeypatch.setattr(app.conf, "broker_url", f"amqp://127.0.0.1:{free_port()}")
    make_relay().turn()
    job.refresh_from_db()
    assert job.state == "queued"


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
    wait_for(lambda: one.turn() and not unpublished())  # over a new connection
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
        patched.setattr(queue, "mark_published", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_relay().publish_due()
    assert make_relay().publish_due() == 1
    assert job_ids() == [str(job.pk)] * 2


def test_requeued_job_is_published_again(submit, make_relay, monkeypatch):
    job, one = submit("echo"), make_relay()

    def requeue(*args: Any) -> None:
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
    lock = queue.PUBLISHER_LOCK
    other_connection.execute("SELECT pg_advisory_xact_lock(%s)", [lock])
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

    one.requeue_undelivered()
    assert unpublished() == 0  # it may be in delivery

    set_published(queue.LOST_AFTER)
    one.requeue_undelivered()
    assert one.publish_due() == 1
    assert job_ids() == [str(job.pk)]


def test_waiting_messages_count_as_lost_after_a_long_time(submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()

    set_published(queue.LOST_FOR_CERTAIN_AFTER / 2)
    one.requeue_undelivered()
    assert unpublished() == 0

    set_published(queue.LOST_FOR_CERTAIN_AFTER)
    one.requeue_undelivered()
    assert unpublished() == 1
