"""Asking for jobs: who may, how often, how many."""

import threading
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.utils import timezone

from compute import completion, files, jobs, queue
from compute.models import Job, JobFile
from compute.outcomes import (
    Cancelled,
    ErrorCode,
    Failed,
    Lost,
    Released,
    Split,
    Succeeded,
)
from compute.queue import Claim
from compute.registry import get_task, task
from resilient_site.api.idempotency import KeyReused
from resilient_site.errors import Conflict, NotAllowed, NotSignedIn

pytestmark = pytest.mark.django_db


def ask(owner: User | None, task: str = "echo", **options) -> Job:
    return jobs.submit(
        task=get_task(task), params={"number": 1}, owner=owner, **options
    )


def take(limit: int = 10) -> list[Claim]:
    return queue.claim("worker", limit)


def test_a_job_is_there_exactly_when_its_transaction_commits(reader):
    def fail() -> None:
        with transaction.atomic():
            ask(reader)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not Job.objects.exists()


def test_who_may_not_run_a_task_cannot_ask_for_it(reader):
    with pytest.raises(NotSignedIn):
        ask(None)
    with pytest.raises(NotAllowed):
        ask(reader, "for_editors")
    assert not Job.objects.exists()


def test_the_same_key_gives_the_same_job(reader):
    first = ask(reader, idempotency_key="k")
    assert ask(reader, idempotency_key="k") == first
    assert ask(reader, idempotency_key="l") != first
    assert ask(User.objects.create_user("other"), idempotency_key="k") != first
    with pytest.raises(KeyReused):
        jobs.submit(
            task=get_task("echo"), params={"number": 2}, owner=reader,
            idempotency_key="k",
        )  # fmt: skip


def test_a_key_is_forgotten_after_a_day(reader):
    first = ask(reader, idempotency_key="k")
    Job.objects.update(created_at=timezone.now() - timedelta(hours=25))
    second = ask(reader, idempotency_key="k")
    assert second != first
    assert ask(reader, idempotency_key="k") == second


@pytest.mark.django_db(transaction=True)
def test_the_same_key_at_the_same_time_makes_one_job(reader):
    made, barrier = [], threading.Barrier(6)

    def press() -> None:
        barrier.wait()
        made.append(ask(reader, idempotency_key="k").pk)
        connection.close()

    threads = [threading.Thread(target=press) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert Job.objects.count() == len(set(made)) == 1


def test_the_queue_is_bounded_for_all_and_for_each(reader, editor, settings):
    settings.COMPUTE_MAX_QUEUED, settings.COMPUTE_MAX_QUEUED_PER_OWNER = 5, 3
    for _ in range(3):
        ask(reader)
    with pytest.raises(jobs.TooManyJobs) as refusal:
        ask(reader)
    assert refusal.value.status == 429
    ask(editor)
    ask(editor)
    with pytest.raises(jobs.QueueFull) as refusal:
        ask(editor)
    assert refusal.value.status == 503
    # Nothing was finished of late: the honest answer is that nobody knows.
    assert refusal.value.retry_after_s == jobs.RATE_WINDOW_S
    # What runs does not wait.
    take(1)
    ask(editor)


def test_how_long_to_wait_follows_from_how_fast_the_queue_moves(reader, settings):
    settings.COMPUTE_MAX_QUEUED = 10
    for _ in range(30):
        ask(reader)
        for claim in take():
            completion.finish(claim, Succeeded())
    # 30 a minute, so one in 2 s; eleven have to go before the twelfth has its place.
    waiting = [ask(reader) for _ in range(10)]
    assert jobs.estimate_wait_s(waiting[-1]) == 20
    with pytest.raises(jobs.QueueFull) as refusal:
        ask(reader)
    assert refusal.value.retry_after_s == 2


def test_strangers_have_a_bound_of_their_own(reader, monkeypatch):
    task = get_task("heavy_computation")
    monkeypatch.setattr(task, "max_anonymous", 1)
    jobs.submit(task=task, params={"size": 1}, owner=None)
    with pytest.raises(jobs.QueueFull):
        jobs.submit(task=task, params={"size": 1}, owner=None)
    jobs.submit(task=task, params={"size": 1}, owner=reader)


def test_an_upload_is_kept_with_its_job_and_copied_when_it_runs_again(editor):
    content = b"id,name\n" + b"x" * (files.CHUNK_BYTES + 5)
    upload = SimpleUploadedFile("my.csv", content, "text/csv")
    job = jobs.submit(
        task=get_task("import_items"), params={"file": upload}, owner=editor
    )
    assert job.params == {"file": "my.csv"}
    again = jobs.run_again(job, owner=editor)
    for one in (job, again):
        file = one.files.get(kind=JobFile.Kind.INPUT)
        assert b"".join(files.read(file)) == content
        assert (file.name, file.size, file.complete) == ("file", len(content), True)


# --- one end for every job


def test_of_two_who_hold_a_job_one_can_end_it(reader):
    job = ask(reader)
    (old,) = take()
    Job.objects.update(state="queued", lease_until=None)
    (new,) = take()
    assert new.epoch == old.epoch + 1
    for outcome in (
        Succeeded("old"),
        Failed(ErrorCode.ERROR, "old"),
        Released(),
        Lost(),
    ):
        assert not completion.finish(old, outcome)
    assert completion.finish(new, Succeeded("new"))
    assert not completion.finish(new, Succeeded("twice"))
    job.refresh_from_db()
    assert (job.state, job.result, job.attempts) == ("succeeded", "new", 2)


def test_what_is_late_cannot_report_either(reader):
    job = ask(reader)
    (claim,) = take()
    completion.finish(claim, Released())
    queue.record_progress(claim, 0.5, "still here")
    queue.store_result(claim, "late")
    job.refresh_from_db()
    assert (job.fraction, job.message, job.result) == (0, "", None)


def test_jobs_are_taken_in_the_order_of_asking_once(reader):
    asked = [ask(reader).pk for _ in range(5)]
    taken = [claim.job_id for claim in take(3) + take(3) + take(3)]
    assert taken == asked


def test_a_named_job_is_taken_if_it_is_due(reader):
    first, second = ask(reader), ask(reader)
    assert [c.job_id for c in queue.claim("w", 1, second.pk)] == [second.pk]
    assert queue.claim("w", 1, second.pk) == []
    Job.objects.filter(pk=first.pk).update(
        run_after=timezone.now() + timedelta(seconds=60)
    )
    assert queue.claim("w", 1, first.pk) == []


@pytest.mark.skipif(connection.vendor == "sqlite", reason="of PostgreSQL's planner")
def test_no_plan_claims_more_than_is_asked_for(reader):
    """A subquery on the inner side of a nested loop runs, and locks, once a row."""
    for _ in range(5):
        ask(reader)
    with connection.cursor() as cursor:
        for kind in ("hashagg", "hashjoin", "mergejoin", "material", "sort"):
            cursor.execute(f"SET LOCAL enable_{kind} = off")
    assert [len(take(1)), len(take(2)), len(take())] == [1, 2, 2]


def test_a_lease_that_has_run_out_puts_the_job_back_without_blame(reader):
    job = ask(reader)
    take()
    assert completion.requeue_lost() == 0
    Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert completion.requeue_lost() == 1
    job.refresh_from_db()
    assert (job.state, job.attempts, job.failures) == ("queued", 1, 0)


def test_a_lease_renewed_at_the_last_moment_is_not_lost(reader):
    ask(reader)
    (claim,) = take()
    assert not completion.finish(claim, Lost())
    assert [held.job_id for held in queue.renew_leases("worker")] == [claim.job_id]


def test_a_job_that_kills_its_workers_ends(reader):
    job = ask(reader)
    for _ in range(completion.LOST_MAX + 1):
        take()
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        completion.requeue_lost()
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "worker_lost")


def test_tries_are_further_and_further_apart(reader):
    job = ask(reader)
    for failures, delay in ((1, 1), (2, 2)):
        (claim,) = take()
        completion.finish(claim, Failed(ErrorCode.CRASHED, "Bang.", retry=True))
        job.refresh_from_db()
        assert (job.state, job.failures) == ("queued", failures)
        assert 0 < (job.run_after - timezone.now()).total_seconds() <= delay
        Job.objects.update(run_after=None)
    (claim,) = take()
    completion.finish(claim, Failed(ErrorCode.CRASHED, "Bang.", retry=True))
    job.refresh_from_db()
    assert (job.state, job.error_detail) == ("failed", "Bang. (Tried 3 times.)")


# --- cancelling and repeating


def test_what_waits_is_cancelled_at_once_and_what_runs_is_asked_to_stop(reader):
    job = ask(reader)
    assert jobs.cancel(job).state == "cancelled"
    assert jobs.cancel(job).state == "cancelled"
    assert take() == []

    job = ask(reader)
    (claim,) = take()
    assert jobs.cancel(job).cancel_requested
    assert queue.get_cancelled("worker") == {job.pk: claim.epoch}
    # It crashed on its own account before it was stopped: it is not tried again.
    completion.finish(claim, Failed(ErrorCode.CRASHED, "Bang.", retry=True))
    job.refresh_from_db()
    assert job.state == "cancelled"


def test_what_came_to_its_end_before_it_was_stopped_has_succeeded(reader):
    job = ask(reader)
    (claim,) = take()
    jobs.cancel(job)
    completion.finish(claim, Succeeded("done"))
    job.refresh_from_db()
    assert job.state == "succeeded"
    with pytest.raises(Conflict, match="succeeded already"):
        jobs.cancel(job)


def test_a_failed_job_can_be_put_back(reader):
    job = ask(reader)
    (claim,) = take()
    assert not jobs.retry(job)
    completion.finish(claim, Failed(ErrorCode.TASK_FAILED, "No."))
    assert jobs.retry(job)
    job.refresh_from_db()
    assert (job.state, job.error, job.attempts) == ("queued", None, 0)
    (claim,) = take()
    completion.finish(claim, Succeeded(1))
    assert not jobs.retry(job)


# --- in parts


def split(reader: User, parts: int = 2) -> Job:
    job = ask(reader, "in_parts")
    ask(reader)  # the parts will go before this one
    (claim,) = take(1)
    assert completion.finish(claim, Split([{"number": n} for n in range(parts)]))
    job.refresh_from_db()
    return job


def test_a_job_in_parts_waits_for_all_and_then_puts_them_together(reader):
    job = split(reader)
    assert (job.state, job.parts_left, job.lease_until) == ("running", 2, None)
    one, two, other = take()
    assert (one.step, two.step, other.step) == ("part", "part", "main")
    queue.record_progress(one, 0.5, "half")
    job.refresh_from_db()
    assert job.fraction == pytest.approx(0.1 + 0.8 * 0.25)
    completion.finish(two, Succeeded(2))
    completion.finish(one, Succeeded(1))
    (merge,) = take()
    assert (merge.job_id, merge.step) == (job.pk, "merge")
    completion.finish(merge, Succeeded([1, 2]))
    job.refresh_from_db()
    assert (job.state, job.result, job.attempts) == ("succeeded", [1, 2], 1)
    assert {job.parent for job in Job.objects.visible_to(reader)} == {None}


def test_a_part_that_fails_ends_the_job_and_stops_its_siblings(reader):
    job = split(reader, 3)
    one, _ = take(2)
    completion.finish(one, Failed(ErrorCode.TASK_FAILED, "No."))
    job.refresh_from_db()
    assert (job.state, job.error_detail) == ("failed", "Part 1: No.")
    states = dict(job.parts.values_list("part", "state"))
    assert states == {0: "failed", 1: "running", 2: "cancelled"}
    assert job.parts.get(part=1).cancel_requested


def test_a_part_may_be_lost_and_done_again(reader):
    job = split(reader, 1)
    (claim,) = take(1)
    Job.objects.filter(parent=job).update(
        lease_until=timezone.now() - timedelta(seconds=1)
    )
    completion.requeue_lost()
    (again,) = take(1)
    assert not completion.finish(claim, Succeeded("old"))
    completion.finish(again, Succeeded("new"))
    (merge,) = take(1)
    assert merge.step == "merge"


def test_a_cancelled_job_in_parts_takes_its_parts_with_it(reader):
    job = split(reader, 3)
    (one,) = take(1)
    assert jobs.cancel(job).state == "cancelled"
    assert {claim.step for claim in take()} == {"main"}
    completion.finish(one, Cancelled())
    assert set(job.parts.values_list("state", flat=True)) == {"cancelled"}


def test_old_jobs_are_forgotten_with_their_files(reader):
    old, new = ask(reader), ask(reader)
    with files.create(old, "a", "text/plain") as out:
        out.write(b"x")
    for job in (old, new):
        jobs.cancel(job)
    Job.objects.filter(pk=old.pk).update(
        finished_at=timezone.now() - timedelta(days=31)
    )
    assert queue.delete_old_jobs() == 1
    assert list(Job.objects.all()) == [new]
    assert not JobFile.objects.exists()


def test_two_tasks_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="Two tasks are called 'echo'"):

        @task()
        def echo(run):
            """Another one."""
