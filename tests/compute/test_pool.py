"""The pool with real processes: what each kind of bad job does, and to whom."""

import os
import signal
import time
from datetime import timedelta

import psutil
import pytest
from django.db import connection, transaction
from django.utils import timezone

from compute import jobs, queue
from compute.models import Job
from resilient_site.models import IdempotencyRecord
from tests.compute.conftest import all_ended, ended, running
from tests.private_server import BUSY_S, wait_for


def test_a_job_is_done(pool, submit):
    job = ended(submit("echo", number=7))
    assert (job.state, job.result, job.fraction) == ("succeeded", {"number": 7}, 1.0)
    assert job.attempts == 1
    assert job.created_at <= job.started_at <= job.finished_at


BAD = {
    "segfault": (2, "crashed", "SIGSEGV"),
    "kill_itself": (2, "crashed", "SIGKILL"),
    "real_time_signal": (1, "crashed", "signal 35"),
    "exit_itself": (1, "crashed", "status 3"),
    "eat_memory": (1, "memory_limit", "64 MB"),
    "too_long_in_c": (1, "time_limit", "1 s"),
    "stopped": (1, "time_limit", "1 s"),
    "raise_error": (2, "error", "the cat sat on it"),
    "refuse": (1, "task_failed", "There is nothing to do."),
    "null_character": (1, "error", "null character"),
    "too_large_result": (1, "result_too_large", "1,000,011"),
}


def test_bad_jobs_fail_with_their_reasons_and_their_neighbours_go_on(pool, submit):
    neighbour = running(submit("nap", seconds=6))
    bad = [submit(task) for task in BAD]
    good = [submit("echo", number=number) for number in range(len(BAD))]
    for job in all_ended(bad):
        tries, code, words = BAD[job.task]
        assert (job.state, job.attempts, job.error_code) == ("failed", tries, code)
        assert words in job.error_detail
    assert {job.state for job in all_ended(good)} == {"succeeded"}
    neighbour = ended(neighbour)
    assert (neighbour.state, neighbour.attempts) == ("succeeded", 1)


def test_short_jobs_are_taken_together_and_none_waits_behind_a_long_one(pool, submit):
    all_ended([submit("echo", number=number) for number in range(60)])
    with transaction.atomic():
        first = [submit("echo", number=number) for number in range(30)]
        naps = [submit("nap", seconds=30) for _ in range(2)]
        last = [submit("echo", number=number) for number in range(30)]
    all_ended(first)
    under_way = Job.objects.filter(state=Job.State.RUNNING)
    wait_for(lambda: set(under_way.all()) == set(naps))
    assert Job.objects.filter(state=Job.State.QUEUED).count() == len(last)
    for nap in naps:
        jobs.cancel(nap)
    for job in all_ended(last):
        assert (job.state, job.attempts) == ("succeeded", 1)
    assert {job.state for job in all_ended(naps)} == {"cancelled"}


def test_a_crash_is_made_up_for_by_the_next_try(pool, submit):
    job = ended(submit("crash_once"))
    assert (job.state, job.attempts, job.failures) == ("succeeded", 2, 1)


def test_a_loop_in_c_is_ended_at_its_limit_and_stalls_nobody(pool, submit):
    loop = running(submit("too_long_in_c"))
    others = [submit("echo", number=n) for n in range(20)]
    loop = ended(loop)
    assert (loop.finished_at - loop.started_at).total_seconds() < 1 + BUSY_S
    assert max(other.finished_at for other in all_ended(others)) < loop.finished_at


@pytest.mark.parametrize("task", ["endless_c_loop", "nap"])
def test_a_running_job_is_cancelled_within_a_second(pool, submit, task):
    job = running(submit(task, **({"seconds": 60} if task == "nap" else {})))
    asked = time.monotonic()
    assert jobs.cancel(job).cancel_requested
    job = ended(job)
    assert (job.state, job.result) == ("cancelled", None)
    assert time.monotonic() - asked < 1 + BUSY_S
    assert ended(submit("echo", number=1)).state == "succeeded"


def test_progress_is_seen_while_the_job_runs(pool, submit):
    job = submit("nap", seconds=3)
    seen = set()

    def look() -> bool:
        job.refresh_from_db()
        if job.state == "running" and job.message:
            seen.add(job.fraction)
        return job.is_finished

    wait_for(look)
    assert len(seen) >= 3
    assert all(0 <= fraction <= 1 for fraction in seen)


def test_a_result_too_large_for_the_pipe_arrives(pool, submit):
    assert len(ended(submit("large_result")).result["text"]) == 100_000


def test_only_the_last_try_s_file_is_a_result(pool, submit):
    job = ended(submit("write_file"))
    assert [(file.name, file.size) for file in job.result_files()] == [
        ("out.txt", len("Written in attempt 2\n") * 100_000)
    ]


def test_tasks_use_the_database(pool, submit):
    assert ended(submit("count_items")).result == {"items": 0}


def test_a_job_in_parts_is_done_by_all_processes(pool, submit):
    job = ended(submit("in_parts", parts=5, seconds=0.3))
    assert job.result == {"sum": 30, "parts": 5}
    assert job.attempts == 1
    workers = Job.objects.filter(parent=job)
    assert {part.state for part in workers} == {"succeeded"}
    overlapping = [
        (one.part, other.part)
        for one in workers
        for other in workers
        if one.part < other.part
        and one.started_at < other.finished_at
        and other.started_at < one.finished_at
    ]
    assert overlapping


def test_a_part_that_fails_fails_the_job_and_stops_the_others(pool, submit):
    job = ended(submit("in_parts", parts=6, bad=0, seconds=30))
    assert (job.state, job.error_code) == ("failed", "part_failed")
    assert "Part 1: The bad one." in job.error_detail
    parts = all_ended(Job.objects.filter(parent=job))
    assert [part.state for part in parts].count("cancelled") == 5


def test_cancelling_a_job_in_parts_stops_all_of_them(pool, submit):
    job = submit("in_parts", parts=6, seconds=30)
    wait_for(lambda: Job.objects.filter(parent=job, state="running").count() == 2)
    jobs.cancel(job)
    assert ended(job).state == "cancelled"
    parts = all_ended(Job.objects.filter(parent=job), timeout=2)
    assert {part.state for part in parts} == {"cancelled"}


def test_pool_processes_step_back_for_the_web(pool, submit):
    running(submit("nap", seconds=20))
    wait_for(lambda: [worker.nice() for worker in pool.workers()] == [19, 19])
    assert psutil.Process(pool.pid).nice() == 0


def test_a_process_that_is_killed_idle_is_replaced(pool, submit):
    ended(submit("echo", number=1))
    before = wait_for(lambda: len(pool.workers()) == 2 and pool.workers())
    for worker in before:
        worker.kill()
    after = all_ended([submit("echo", number=n) for n in range(4)])
    assert {job.state for job in after} == {"succeeded"}
    assert not set(before) & set(pool.workers())


def test_a_fork_server_that_is_killed_is_replaced(pool, submit):
    job = running(submit("nap", seconds=1))
    server = wait_for(lambda: [w.parent() for w in pool.workers()])[0]
    server.kill()
    assert ended(job).state == "succeeded"
    assert ended(submit("echo", number=1)).state == "succeeded"


@pytest.mark.parametrize("task", ["endless_c_loop", "nap"])
def test_the_pool_s_processes_die_with_their_supervisor(pool, submit, task):
    """Also those in a loop in C, which nothing but the kernel reaches."""
    running(submit(task, **({"seconds": 60} if task == "nap" else {})))
    family = psutil.Process(pool.pid).children(recursive=True)
    pool.kill()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_a_stop_lets_jobs_end_and_takes_no_more(make_pool, submit):
    pool = make_pool(COMPUTE_GRACE_S="20")
    under_way = [running(submit("nap", seconds=2)) for _ in range(2)]
    waiting = submit("echo", number=1)
    assert pool.stop() == 0
    assert {job.state for job in all_ended(under_way)} == {"succeeded"}
    waiting.refresh_from_db()
    assert waiting.state == "queued"


def test_a_stop_hands_back_what_takes_longer_than_the_grace_time(make_pool, submit):
    pool = make_pool(COMPUTE_GRACE_S="1")
    job = running(submit("nap", seconds=60))
    assert pool.stop() == 0
    job.refresh_from_db()
    assert (job.state, job.attempts, job.lease_until) == ("queued", 0, None)


def test_a_second_stop_is_at_once(make_pool, submit):
    pool = make_pool(COMPUTE_GRACE_S="60")
    job = running(submit("nap", seconds=60))
    os.kill(pool.pid, signal.SIGTERM)
    time.sleep(0.2)  # two signals at once would be one
    assert pool.stop() == 0
    job.refresh_from_db()
    assert job.state == "queued"


@pytest.mark.skipif(
    connection.vendor == "sqlite",
    reason="a process stopped in a transaction holds SQLite's only lock",
)
def test_a_supervisor_that_wakes_too_late_writes_nothing(make_pool, submit):
    """One that was stopped for longer than its lease has lost its job to another."""
    sleeper = make_pool(COMPUTE_PROCESSES="1")
    job = running(submit("nap", seconds=3))
    os.kill(sleeper.pid, signal.SIGSTOP)
    heir = make_pool(COMPUTE_PROCESSES="1")
    wait_for(lambda: Job.objects.get(pk=job.pk).epoch == 2, timeout=queue.LEASE_S + 5)
    os.kill(sleeper.pid, signal.SIGCONT)
    job = ended(job)
    assert (job.state, job.attempts, job.result) == ("succeeded", 2, {"attempt": 2})
    wait_for(lambda: "had been lost" in sleeper.output())
    assert heir.stop() == 0


def test_it_deletes_old_answers_to_writes_with_a_key(make_pool, owner):
    IdempotencyRecord.objects.create(
        owner=owner, key="k", status=204, headers=[], body=b"",
        created_at=timezone.now() - timedelta(hours=25),
    )  # fmt: skip
    make_pool()
    wait_for(lambda: not IdempotencyRecord.objects.exists())
