"""A Celery worker: jobs fail, are cancelled and lose their messages."""

from collections import Counter
from pathlib import Path

import pytest

from compute import jobs
from compute.models import Job
from tests.compute.celery import brokers
from tests.compute.conftest import all_ended, ended, running
from tests.private_server import wait_for

# A broker is for a site on several machines, so on PostgreSQL.
pytestmark = pytest.mark.once


def test_bad_jobs_fail_and_the_worker_continues(worker, submit):
    neighbour = running(submit("nap", seconds=60))
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
    neighbour.refresh_from_db()
    assert (neighbour.state, neighbour.attempts) == ("running", 1)


def test_running_and_waiting_jobs_are_cancelled(worker, submit):
    busy = [running(submit("endless_c_loop")) for _ in range(2)]
    waiting = submit("echo", number=1)
    wait_for(lambda: Job.objects.filter(pk=waiting.pk).exclude(handed_over_at=None))
    for job in (waiting, *busy):
        jobs.cancel(job)
    assert {job.state for job in all_ended([waiting, *busy])} == {"cancelled"}
    assert ended(submit("echo", number=2)).state == "succeeded"
    waiting.refresh_from_db()
    assert waiting.attempts == 0


def test_jobs_whose_messages_are_lost_are_published_again(
    worker, submit, rabbitmq_server
):
    url = rabbitmq_server.url()
    busy = [running(submit("endless_c_loop")) for _ in range(2)]
    submitted = [submit("recorded", number=number) for number in range(5)]
    published = Job.objects.filter(task="recorded").exclude(handed_over_at=None)
    wait_for(lambda: published.count() == 5)
    wait_for(lambda: brokers.count(url) == 5)
    assert len(brokers.messages(url)) == 5
    for job in busy:
        jobs.cancel(job)

    done = all_ended(submitted)
    assert Counter(job.state for job in done) == {"succeeded": 5}
    record = Path(worker.env["RECORD"]).read_text().splitlines()
    assert set(Counter(record).values()) == {1}
