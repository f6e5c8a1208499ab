"""Pool processes: what each kind of bad job does, and that it concerns no other."""

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from django.db import transaction
from django.utils import timezone

from compute import jobs
from compute.models import Job
from tests.compute.conftest import (
    Pool,
    all_ended,
    assert_each_completed_once,
    ended,
    processes_of,
    running,
)
from tests.private_server import alive, wait_for

# Processes, pipes and signals are the same on both databases.
pytestmark = pytest.mark.once

JOBS = 100
KILLS = 5
FAILURES = {
    "segfault": (2, "crashed", "Segmentation fault"),
    "kill_itself": (2, "crashed", "Killed"),
    "exit_itself": (1, "crashed", "status 3"),
    "eat_memory": (1, "memory_limit", "64 MB"),
    "too_long_in_c": (1, "time_limit", "1 s"),
    "stopped": (1, "time_limit", "1 s"),
    "raise_error": (2, "error", "the cat sat on it"),
    "refuse": (1, "task_failed", "There is nothing to do."),
    "unstorable_error": (1, "error", "a\ufffdb?"),
    "unstorable_failure": (1, "task_failed", "a\ufffdb?"),
    "null_character": (1, "error", "null character"),
    "too_large_result": (1, "result_too_large", "1,000,011"),
}


def test_jobs_succeed_with_their_results(pool, submit):
    """Also with one that is larger than a pipe."""
    assert len(ended(submit("large_result")).result["text"]) == 100_000
    job = ended(submit("echo", number=7))
    assert (job.state, job.result, job.fraction) == ("succeeded", {"number": 7}, 1.0)
    assert job.attempts == 1
    assert job.created_at <= job.started_at <= job.finished_at


def test_bad_jobs_fail_with_their_reasons_while_others_run(pool, submit):
    neighbour = running(submit("nap", seconds=500))
    bad = [submit(task) for task in FAILURES]
    good = [submit("echo", number=number) for number in range(len(FAILURES))]
    for job in all_ended(bad):
        attempts, code, text = FAILURES[job.task]
        assert (job.state, job.attempts, job.error_code) == ("failed", attempts, code)
        assert text in job.error_detail
    assert {job.state for job in all_ended(good)} == {"succeeded"}
    neighbour.refresh_from_db()
    assert (neighbour.state, neighbour.attempts) == ("running", 1)


def test_processes_of_a_job_end_with_it(pool, submit):
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
    wait_for(lambda: len(processes_of(cancelled, pool)) == 3)
    jobs.cancel(cancelled)
    assert ended(cancelled).state == "cancelled"
    for job in [*jobs_, cancelled]:
        started = processes_of(job, pool)
        assert len(started) == 3
        wait_for(lambda started=started: not alive(started))


def test_fork_of_a_job_does_not_end_it(pool, submit):
    job = ended(submit("return_twice"))
    found = job.state, job.error_detail, job.result
    assert found == ("succeeded", "", "parent")


def test_job_of_a_person_runs_while_anonymous_jobs_wait(pool, submit, gate):
    params = {"seconds": 500, "gate": str(gate)}
    awaited = {"created_at": timezone.now() + timedelta(hours=1)}
    with transaction.atomic():
        for _ in range(3):
            Job.objects.create(
                task="nap", params=params, anonymous_client="somebody", **awaited
            )
    wait_for(lambda: Job.objects.filter(state="running").exists())
    assert ended(submit("echo", number=1)).state == "succeeded"
    naps = Job.objects.filter(task="nap")
    assert sorted(naps.values_list("state", flat=True)) == ["queued"] * 2 + ["running"]
    gate.touch()
    assert {job.state for job in all_ended(naps)} == {"succeeded"}


def test_running_job_is_killed_when_it_is_cancelled(pool, submit):
    job = running(submit("endless_c_loop"))
    assert jobs.cancel(job).cancel_requested
    job = ended(job)
    assert (job.state, job.result) == ("cancelled", None)


def test_progress_is_stored_while_the_job_runs(pool, submit):
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


def test_result_has_only_the_file_of_the_last_attempt(pool, submit):
    job = ended(submit("write_file"))
    assert [(file.name, file.size) for file in job.result_files()] == [
        ("out.txt", len("Written in attempt 2\n") * 100_000)
    ]


def test_parts_run_at_the_same_time(pool, submit, gate):
    job = submit("in_parts", parts=3, seconds=500, gate=str(gate))
    # What waits behind a job is claimed, too, but has no message.
    busy = job.parts.filter(state="running").exclude(message="")
    wait_for(lambda: busy.count() == 2)
    gate.touch()
    job = ended(job)
    assert (job.result, job.attempts) == ({"sum": 5, "parts": 3}, 1)


def test_pool_processes_have_a_low_priority(pool):
    wait_for(lambda: priorities(pool) == [19, 19])
    assert psutil.Process(pool.pid).nice() == os.nice(0)


def priorities(pool: Pool) -> list[int]:
    with suppress(psutil.NoSuchProcess):  # it has just been replaced
        return [worker.nice() for worker in pool.workers()]
    return []


def test_idle_process_that_is_killed_is_replaced(pool, submit):
    ended(submit("echo", number=1))
    before = wait_for(lambda: len(pool.workers()) == 2 and pool.workers())
    for worker in before:
        worker.kill()
    assert not psutil.wait_procs(before, timeout=90)[1]
    after = all_ended([submit("echo", number=n) for n in range(4)])
    assert {job.state for job in after} == {"succeeded"}
    assert not set(before) & set(pool.workers())


def test_job_has_not_begun_whose_process_ends_before_it_reads_it(pool, submit):
    """So it is run, even a job that must not be run twice."""
    idle = wait_for(lambda: len(pool.workers()) == 2 and pool.workers())
    for worker in idle:
        worker.suspend()
    jobs_ = [running(submit("return_twice")) for _ in idle]
    for worker in idle:
        worker.kill()
    done = [(job.state, job.attempts) for job in all_ended(jobs_)]
    assert done == [("succeeded", 1)] * 2


def test_process_is_replaced_after_a_number_of_jobs(make_pool, submit):
    pool = make_pool(TEST_JOBS_MAX="3")
    before = wait_for(lambda: len(pool.workers()) == 2 and pool.workers())
    # The pool that the other tests share takes its part of the jobs.
    wait_for(lambda: ended(submit("echo", number=1)) and has_lost(pool, before))


def has_lost(pool, workers) -> bool:
    return bool(set(workers) - set(pool.workers()))


def test_jobs_survive_kills_of_their_processes(pool, submit):
    for number in range(JOBS):
        submit("recorded", number=number, seconds=0.01)
    done = Job.objects.filter(state="succeeded")
    for kill in range(KILLS):
        wait_for(lambda kill=kill: done.count() > JOBS * kill // (KILLS + 2))
        with suppress(psutil.NoSuchProcess, IndexError):
            pool.workers()[kill % 2].kill()
    assert_each_completed_once(Path(pool.env["RECORD"]))


def test_fork_server_that_is_killed_is_replaced(pool, submit, gate):
    job = running(submit("nap", seconds=500, gate=str(gate)))
    # It runs in one of its processes.
    server = fork_server(pool)
    assert server.cmdline() == server.parent().cmdline()  # forked: it shares its memory
    server.kill()
    gate.touch()
    assert ended(job).state == "succeeded"
    assert ended(submit("echo", number=1)).state == "succeeded"
    assert "forkserver" in str(fork_server(pool).cmdline())


def fork_server(pool) -> psutil.Process:
    def parents() -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):  # one has ended in between
            return [p for p in psutil.Process(pool.pid).children() if p.children()]
        return []

    wait_for(lambda: len(parents()) == 1)
    return parents()[0]
