"""Handing over to a broker, and what a worker does with what is delivered."""

import logging
import time
from datetime import timedelta

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from compute import completion, jobs, queue
from compute.celery import relay
from compute.celery.app import BROKER_ERRORS, BROKER_TIMEOUT_S, app
from compute.celery.relay import Relay
from compute.models import Job
from compute.outcomes import Released
from tests.compute import brokers
from tests.servers import free_port

needs_row_locks = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="SQLite locks no rows"
)


@pytest.fixture
def url(rabbitmq_server, monkeypatch):
    """A broker without a queue; the relays of this process know it."""
    url = rabbitmq_server.url()
    monkeypatch.setattr(app.conf, "broker_url", url)
    brokers.delete_queue(url)
    return url


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


@pytest.fixture
def other():
    """A second connection to the database."""
    params = connection.get_connection_params()
    with psycopg.connect(**params) as other:
        yield other


def not_handed_over():
    return Job.objects.filter(handed_over_at=None).count()


def test_what_is_due_is_handed_over_once_and_in_order(url, submit, make_relay):
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


def test_a_job_that_is_queued_again_is_handed_over_again(url, submit, make_relay):
    job = submit("echo")
    make_relay().publish_due()
    [claim] = queue.claim("someone", 1, job.pk)
    completion.finish(claim, Released())

    assert make_relay().publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk), str(job.pk)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the relay logged; the breaker speaks for itself."""
    records = caplog.records
    return [one.getMessage() for one in records if one.name == "compute.celery.relay"]


def test_jobs_wait_for_a_broker_that_is_away_and_one_line_tells(
    url, submit, make_relay, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING, "compute")
    submit("echo")
    one = make_relay()
    monkeypatch.setattr(app.conf, "broker_url", f"amqp://127.0.0.1:{free_port()}")

    for _ in range(5):
        one.turn()

    assert not_handed_over() == 1
    [line] = said(caplog)
    assert "the broker failed" in line
    assert "Connection refused" in line

    monkeypatch.setattr(app.conf, "broker_url", url)
    one.turn()
    assert not_handed_over() == 0
    assert said(caplog)[1:] == ["Jobs are published again."]


def test_of_several_brokers_one_that_is_there_is_taken(
    url, submit, make_relay, monkeypatch
):
    several = f"amqp://127.0.0.1:{free_port()};{url}"
    monkeypatch.setattr(app.conf, "broker_url", several)
    submit("echo")
    assert make_relay().publish_due() == 1


def test_a_broker_that_hangs_holds_nobody_up_for_long(
    rabbitmq_own, submit, make_relay, monkeypatch
):
    monkeypatch.setattr(app.conf, "broker_url", rabbitmq_own.url())
    one = make_relay()
    submit("echo")
    one.publish_due()
    held_up = submit("echo")

    rabbitmq_own.pause()
    began = time.monotonic()
    with pytest.raises(BROKER_ERRORS):
        one.publish_due()
    assert time.monotonic() - began < BROKER_TIMEOUT_S + 1
    assert not_handed_over() == 1

    rabbitmq_own.resume()
    one.turn()
    if not_handed_over():
        one.turn()  # over a new connection
    assert brokers.job_ids(rabbitmq_own.url())[-1] == str(held_up.pk)


def test_a_message_without_a_queue_is_not_taken_for_delivered(url, submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()
    brokers.delete_queue(url)
    job = submit("echo")

    with pytest.raises(BROKER_ERRORS, match="NO_ROUTE"):
        one.publish_due()
    assert not_handed_over() == 1

    one.turn()
    one.turn()
    assert brokers.job_ids(url) == [str(job.pk)]


def test_a_relay_that_dies_before_it_marks_publishes_twice(
    url, submit, make_relay, monkeypatch
):
    job = submit("echo")
    with monkeypatch.context() as patched:
        patched.setattr(relay, "_mark", lambda *args, **changes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_relay().publish_due()
    assert make_relay().publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk)] * 2


def test_a_job_that_was_taken_and_queued_again_meanwhile_is_not_marked(
    url, submit, make_relay, monkeypatch
):
    submit("echo")

    def taken_at_once(self, job_id):
        [claim] = queue.claim("someone", 1, job_id)
        completion.finish(claim, Released())

    with monkeypatch.context() as patched:
        patched.setattr(Relay, "_publish", taken_at_once)
        make_relay().publish_due()
    assert not_handed_over() == 1


@needs_row_locks
def test_one_relay_at_a_time_hands_over(url, submit, make_relay, other):
    submit("echo")
    other.execute("SELECT pg_advisory_xact_lock(%s)", [relay.LOCK])
    assert make_relay().publish_due() == 0

    other.rollback()  # as its end would
    assert make_relay().publish_due() == 1


def handed_over(ago):
    """Make all jobs look as if they had been handed over so long ago."""
    Job.objects.update(handed_over_at=timezone.now() - ago)


def test_lost_messages_are_found_missing_in_an_empty_queue(url, submit, make_relay):
    one, job = make_relay(), submit("echo")
    one.publish_due()
    brokers.messages(url)  # and so they are gone

    one.requeue_lost()
    assert not_handed_over() == 0  # it may be on its way

    handed_over(relay.LOST_AFTER)
    one.requeue_lost()
    assert one.publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk)]


def test_messages_that_wait_are_not_lost_but_for_a_long_time(url, submit, make_relay):
    one = make_relay()
    submit("echo")
    one.publish_due()

    handed_over(relay.LOST_FOR_CERTAIN_AFTER / 2)
    one.requeue_lost()
    assert not_handed_over() == 0

    handed_over(relay.LOST_FOR_CERTAIN_AFTER)
    one.requeue_lost()
    assert not_handed_over() == 1


def test_with_the_queue_all_its_messages_are_lost(url, submit, make_relay):
    one, job = make_relay(), submit("echo")
    one.publish_due()
    brokers.delete_queue(url)
    handed_over(relay.LOST_AFTER)

    one.requeue_lost()
    assert one.publish_due() == 1
    assert brokers.job_ids(url) == [str(job.pk)]
