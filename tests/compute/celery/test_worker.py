"""A worker of Celery: each kind of job, and what ends it."""

import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from compute import jobs, queue
from compute.models import Job
from resilient_site.celery import app
from resilient_site.models import IdempotencyRecord
from tests.compute.celery.conftest import process_of
from tests.compute.conftest import (
    all_ended,
    assert_each_completed_once,
    end_all,
    ended,
    processes_of,
    running,
)
from tests.private_server import alive, wait_for

pytestmark = pytest.mark.once

on_both = pytest.mark.parametrize(
    "module_worker", ["rabbitmq", "redis_of_module"], indirect=True
)

FAILURES = {
    "segfault": (2, "crashed", "signal 11 (SIGSEGV)"),
    "kill_itself": (2, "crashed", "signal 9 (SIGKILL)"),
    "exit_itself": (1, "crashed", "exitcode 3"),
    "eat_memory": (1, "memory_limit", "64 MB"),
    "too_long": (1, "time_limit", "1 s"),
    "too_long_in_c": (1, "time_limit", "1 s"),
    "stopped": (1, "time_limit", "1 s"),
    "raise_error": (2, "error", "the cat sat on it"),
    "refuse": (1, "task_failed", "There is nothing to do."),
    "unstorable_error": (1, "error", "a\ufffdb?"),
    "null_character": (1, "error", "null character"),
}


@pytest.fixture
def worker(module_worker, transactional_db):
    yield module_worker
    end_all()


@on_both
def test_jobs_succeed_with_their_results(worker, submit):
    assert len(ended(submit("large_result")).result["text"]) == 100_000
    job = ended(submit("echo", number=7))
    assert (job.state, job.result, job.fraction) == ("succeeded", {"number": 7}, 1.0)
    job = ended(submit("in_parts", parts=3))
    assert (job.result, job.attempts) == ({"sum": 5, "parts": 3}, 1)


def test_bad_jobs_fail_with_their_reasons_while_others_run(worker, submit, gate):
    neighbour = running(submit("nap", seconds=500, gate=str(gate)))
    bad = [submit(task) for task in FAILURES]
    for job in all_ended(bad):
        attempts, code, text = FAILURES[job.task]
        assert (job.state, job.attempts, job.error_code) == ("failed", attempts, code)
        assert text in job.error_detail
    gate.touch()
    assert ended(neighbour).result == {"attempt": 1}


def test_job_of_a_process_whose_end_is_not_reported_runs_again(worker, submit, gate):
    node = running(submit("nap", seconds=500, gate=str(gate))).worker.rpartition(":")[0]
    with transaction.atomic():  # not delivered before it is claimed
        job = submit("echo", number=1)
        [claim] = queue.claim(f"{node}:{2**22 + 1}", 1, job.pk)
    job = ended(job)
    assert (job.state, job.attempts, claim.attempt) == ("succeeded", 2, 1)


def test_progress_is_stored_while_the_job_runs(worker, submit):
    job = submit("nap", seconds=500)
    seen = set()

    def has_progressed() -> bool:
        job.refresh_from_db()
        if job.state == "running" and job.message:
            seen.add(job.fraction)
        return len(seen) >= 3

    wait_for(has_progressed)
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert job.message.endswith("s left\ufffd")


@on_both
def test_job_in_a_loop_in_c_is_named_by_inspect_and_cancelled(worker, submit, control):
    job = running(submit("endless_c_loop"))

    def find() -> list[Any]:
        [active] = control("inspect", "active").values()
        return [one for one in active if one["id"] == str(job.pk)]

    [found] = wait_for(find)  # its process may be ahead of the main one
    assert found["name"] == "compute.run"
    assert found["worker_pid"] == process_of(job).pid

    assert jobs.cancel(job).cancel_requested
    job = ended(job)
    assert (job.state, job.result) == ("cancelled", None)


@pytest.mark.parametrize("command", [["terminate", "TERM"], ["revoke"]])
def test_revoked_job_is_cancelled_and_can_be_retried(worker, submit, control, command):
    job = running(submit("endless_c_loop"))
    control("control", *command, str(job.pk))
    assert ended(job).state == "cancelled"
    assert jobs.retry(job)
    running(job)


def test_processes_of_a_job_end_with_it(worker, submit):
    """Limits, cancellation, crash and end reach also those that have left its group."""
    at_limits = ["leave_processes_too_long", "eat_memory_in_children"]
    jobs_ = [submit("leave_processes", end=end) for end in ("return", "raise", "crash")]
    jobs_ += [submit(task) for task in at_limits]
    how = [(job.state, job.error_code) for job in map(ended, jobs_)]
    assert how == [
        ("succeeded", ""), ("failed", "error"), ("failed", "crashed"),
        ("failed", "time_limit"), ("failed", "memory_limit"),
    ]  # fmt: skip
    cancelled = submit("leave_processes", end="loop")
    wait_for(lambda: len(processes_of(cancelled, worker)) == 3)
    jobs.cancel(cancelled)
    assert ended(cancelled).state == "cancelled"
    for job in [*jobs_, cancelled]:
        started = processes_of(job, worker)
        assert len(started) == 3
        wait_for(lambda started=started: not alive(started))


def test_job_of_a_person_runs_while_anonymous_jobs_wait(worker, submit, gate):
    params = {"seconds": 500, "gate": str(gate)}
    awaited = {"created_at": timezone.now() + timedelta(hours=1)}
    with transaction.atomic():
        for _ in range(4):
            Job.objects.create(
                task="nap", params=params, anonymous_client="somebody", **awaited
            )
    naps = Job.objects.filter(task="nap")
    wait_for(lambda: naps.filter(state="running").count() == 2)
    assert ended(submit("echo", number=1)).state == "succeeded"
    assert sorted(naps.values_list("state", flat=True)) == [
        "queued", "queued", "running", "running",
    ]  # fmt: skip
    gate.touch()
    assert {job.state for job in all_ended(naps)} == {"succeeded"}


def test_jobs_survive_kills_of_their_processes(worker, submit, gate):
    victims = []
    for number, kill in enumerate((signal.SIGKILL, signal.SIGTERM)):
        for n in range(10):
            submit("recorded", number=10 * number + n)
        victims.append(submit("recorded", number=99, seconds=500, gate=str(gate)))
        process_of(running(victims[-1])).send_signal(kill)
    gate.touch()
    assert_each_completed_once(Path(worker.env["RECORD"]))
    assert all(job.attempts > 1 for job in all_ended(victims))


def test_pool_processes_have_a_low_priority(worker, submit):
    assert process_of(running(submit("nap", seconds=500))).nice() == 19


def test_beat_has_expired_rows_deleted(worker, owner, monkeypatch):
    IdempotencyRecord.objects.create(
        owner=owner, key="k", status=204, headers=[], body=b"",
        created_at=timezone.now() - timedelta(hours=25),
    )  # fmt: skip
    monkeypatch.setattr(app.conf, "broker_url", worker.env["BROKER_URL"])
    [entry] = app.conf.beat_schedule.values()
    with app.connection_for_write() as connection:
        app.send_task(entry["task"], connection=connection, **entry["options"])
    wait_for(lambda: not IdempotencyRecord.objects.exists())
