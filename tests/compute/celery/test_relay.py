"""Relay: publishes due jobs to the broker, also those whose messages were lost."""

import logging
from datetime import timedelta

import pytest
from django.utils import timezone

from compute import completion, jobs, queue
from compute.celery import relay
from compute.celery.app import BROKER_ERRORS, app
from compute.celery.relay import Relay
from compute.models import Job
from compute.outcomes import Released
from tests.compute.celery import brokers
from tests.servers import free_port

pytestmark = pytest.mark.once


@pytest.fixture
def url(broker, monkeypatch):
    """A broker without a queue, configured for the relays of this process."""
    monkeypatch.setattr(app.conf, "broker_url", broker.url())
    return broker.url()


@pytest.fixture
def make_relay():
    relays = []

    def make():
        relays.append(Relay())
        return relays[-1]

    yield make
    for one in relays:
        one.stop()
        one.run()  # to its end


def unpublished():
    return Job.objects.filter(handed_over_at=None).count()


def test_due_jobs_are_published_once_and_in_order(url, submit, make_relay):
    due = [submit("echo", number=number) for number in range(3)]
    later = submit("echo")
    Job.objects.filter(pk=later.pk).update(
        run_after=timezone.now() + timedelta(minutes=1)
    )
    cancelled = submit("echo")
    jobs.cancel(cancelled)

    assert [make_relay().publish_due(), make_relay().publish_due()] == [3, 0]

    found = brokers.messages(url)
    assert [message.headers["id"] for message in found] == [str(job.pk) for job in due]
    args, kwargs, _ = found[0].decode()
    assert (args, kwargs) == ([str(due[0].pk)], {})
    assert found[0].properties["delivery_mode"] == 2
    assert set(Job.objects.filter(handed_over_at=None)) == {later, cancelled}


def test_requeued_job_is_published_again(url, submit, make_relay):
    job = submit("echo")
    make_relay().publish_due()
    [claim] = queue.claim("someone", 1, job.pk)
    completion.finish(claim, Released())

    assert make_relay().publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk), str(job.pk)]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of the relay, without those of the breaker."""
    records = caplog.records
    return [one.getMessage() for one in records if one.name == "compute.celery.relay"]


def test_outage_of_the_broker_is_logged_once_while_jobs_wait(
    url, submit, make_relay, monkeypatch, caplog
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

    monkeypatch.setattr(app.conf, "broker_url", url)
    one.turn()
    assert unpublished() == 0
    assert logged(caplog)[1:] == ["Jobs are published again."]


def test_first_available_broker_of_several_is_used(
    url, submit, make_relay, monkeypatch
):
    several = f"amqp://127.0.0.1:{free_port()};{url}"
    monkeypatch.setattr(app.conf, "broker_url", several)
    submit("echo")
    assert make_relay().publish_due() == 1


def test_hanging_broker_times_out(broker, url, submit, make_relay):
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
    assert brokers.job_ids(url)[-1] == str(held_up.pk)


def test_message_without_a_queue_does_not_count_as_published(url, submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()
    brokers.delete_queue(url)
    job = submit("echo")

    with pytest.raises(BROKER_ERRORS, match="NO_ROUTE"):
        one.publish_due()
    assert unpublished() == 1

    one.turn()
    one.turn()
    assert brokers.job_ids(url) == [str(job.pk)]


def test_relay_killed_before_marking_publishes_twice(
    url, submit, make_relay, monkeypatch
):
    job = submit("echo")
    with monkeypatch.context() as patched:
        patched.setattr(relay, "_mark", lambda *args, **changes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_relay().publish_due()
    assert make_relay().publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk)] * 2


def test_job_requeued_meanwhile_is_not_marked_as_published(
    url, submit, make_relay, monkeypatch
):
    submit("echo")

    def taken_at_once(self, job_id):
        [claim] = queue.claim("someone", 1, job_id)
        completion.finish(claim, Released())

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "_publish", taken_at_once)
        make_relay().publish_due()
    assert unpublished() == 1


def test_only_one_relay_publishes_at_a_time(url, submit, make_relay, other_connection):
    submit("echo")
    other_connection.execute("SELECT pg_advisory_xact_lock(%s)", [relay.LOCK])
    assert make_relay().publish_due() == 0

    other_connection.rollback()  # as the end of its process would
    assert make_relay().publish_due() == 1


def set_published(ago):
    """Backdate the publication of all jobs."""
    Job.objects.update(handed_over_at=timezone.now() - ago)


@pytest.mark.parametrize("lose", [brokers.messages, brokers.delete_queue])
def test_lost_messages_are_published_again(url, submit, make_relay, lose):
    one, job = make_relay(), submit("echo")
    one.publish_due()
    lose(url)

    one.requeue_lost()
    assert unpublished() == 0  # it may be in delivery

    set_published(relay.LOST_AFTER)
    one.requeue_lost()
    assert one.publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk)]


def test_waiting_messages_count_as_lost_after_a_long_time(url, submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()

    set_published(relay.LOST_FOR_CERTAIN_AFTER / 2)
    one.requeue_lost()
    assert unpublished() == 0

    set_published(relay.LOST_FOR_CERTAIN_AFTER)
    one.requeue_lost()
    assert unpublished() == 1
