"""Jobs: submission, limits, claims, completion, parts."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError, connection
from django.utils import timezone

from compute import completion, files, jobs, queue
from compute.models import Job, JobFile
from compute.outcomes import Cancelled, Failed, Lost, Released, Split, Succeeded
from compute.queue import Claim
from compute.registry import get_task
from compute.task_context import TaskContext
from resilient_site.api.idempotency import KeyReused
from resilient_site.errors import Conflict, NotAllowed, NotSignedIn
from tests.compute.factories import make_file, make_job

pytestmark = pytest.mark.django_db


def submit(owner: User | None, task: str = "echo", number: int = 1, **options) -> Job:
    params = {"number": number}
    return jobs.submit(task=get_task(task), params=params, owner=owner, **options)


def stored(job: Job) -> Job:
    return Job.objects.get(pk=job.pk)


def expire_leases() -> None:
    held = Job.objects.exclude(lease_until=None)
    held.update(lease_until=timezone.now() - timedelta(seconds=1))


def claim_jobs(limit: int = 10) -> list[Claim]:
    return queue.claim("worker", limit)


def test_submit_requires_permission(reader):
    with pytest.raises(NotSignedIn):
        submit(None)
    with pytest.raises(NotAllowed):
        submit(reader, "for_editors")
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_submit_for_a_deleted_user_is_an_error(reader):
    User.objects.all().delete()
    with pytest.raises(IntegrityError):
        submit(reader)
    assert not Job.objects.exists()


def test_same_key_returns_the_same_job(reader):
    first = submit(reader, idempotency_key="k")
    assert submit(reader, idempotency_key="k") == first
    assert submit(reader, idempotency_key="l") != first
    assert submit(User.objects.create_user("other"), idempotency_key="k") != first
    with pytest.raises(KeyReused):
        submit(reader, number=2, idempotency_key="k")

    # It expires after a day.
    Job.objects.update(created_at=timezone.now() - timedelta(hours=25))
    second = submit(reader, idempotency_key="k")
    assert second != first
    assert submit(reader, idempotency_key="k") == second


@pytest.mark.django_db(transaction=True)
def test_concurrent_submissions_with_one_key_create_one_job(reader):
    made, barrier = [], Barrier(6)

    def submit_once() -> None:
        barrier.wait()
        made.append(submit(reader, idempotency_key="k").pk)
        connection.close()

    with ThreadPoolExecutor(6) as threads:
        for _ in range(6):
            threads.submit(submit_once)
    assert len(made) == 6
    assert Job.objects.count() == len(set(made)) == 1


def test_queue_has_a_limit_in_total_and_per_user(reader, editor, settings):
    settings.COMPUTE_MAX_QUEUED, settings.COMPUTE_MAX_QUEUED_PER_OWNER = 5, 3
    for _ in range(3):
        submit(reader)
    with pytest.raises(jobs.TooManyJobs) as rejection:
        submit(reader)
    assert (rejection.value.status, rejection.value.code) == (429, "too_many_jobs")
    assert rejection.value.retry_after_s == jobs.RATE_WINDOW_S
    submit(editor)
    submit(editor)
    with pytest.raises(jobs.QueueFull) as rejection:
        submit(editor)
    assert (rejection.value.status, rejection.value.code) == (503, "queue_full")
    # The throughput is unknown while nothing has finished.
    assert rejection.value.retry_after_s == jobs.RATE_WINDOW_S
    # A running job does not count as waiting.
    claim_jobs(1)
    submit(editor)


def test_estimated_wait_follows_the_throughput(reader, settings):
    settings.COMPUTE_MAX_QUEUED = 10
    for _ in range(30):
        submit(reader)
        for claimed in claim_jobs():
            completion.finish(claimed, Succeeded())
    # 30 a minute, so one in 2 s.
    waiting = [submit(reader) for _ in range(10)]
    assert jobs.estimate_wait_s(waiting[-1]) == 20
    with pytest.raises(jobs.QueueFull) as rejection:
        submit(reader)
    assert rejection.value.retry_after_s == 2


@pytest.mark.once
@pytest.mark.parametrize(
    ("waiting", "finished", "seconds"), [(11, 0, 60), (1, 90, 1), (11, 1, 600)]
)
def test_estimated_wait_is_within_bounds(waiting, finished, seconds):
    for _ in range(finished):
        make_job("succeeded", finished_at=timezone.now())
    # Those of a minute ago, and parts, are not counted.
    old = make_job("succeeded", finished_at=timezone.now() - timedelta(seconds=61))
    make_job("succeeded", finished_at=timezone.now(), parent=old)
    assert jobs.estimate_duration_s(waiting) == seconds


@pytest.mark.once
def test_person_waits_for_their_first_job_in_the_queue(reader, editor, admin, settings):
    settings.COMPUTE_MAX_QUEUED_PER_OWNER = 2
    for _ in range(3):
        make_job("succeeded", finished_at=timezone.now())
    make_job(owner=editor)
    make_job(owner=reader)
    same_time = Job.objects.latest("queued_at").queued_at
    make_job(owner=reader, queued_at=same_time)
    with pytest.raises(jobs.TooManyJobs) as rejection:
        submit(reader)
    assert rejection.value.retry_after_s == 2 * 20
    settings.COMPUTE_MAX_QUEUED_PER_OWNER = 0
    with pytest.raises(jobs.TooManyJobs) as rejection:
        submit(admin)
    assert rejection.value.retry_after_s == 1
    last = Job.objects.order_by("pk").last()
    assert jobs.count_ahead(last) == 2


def submit_anonymous(address: str | None = None) -> Job:
    return submit(None, "heavy_computation", address=address)


def test_anonymous_jobs_have_a_limit_per_address_and_in_total(reader):
    one, _ = submit_anonymous("192.0.2.1"), submit_anonymous("192.0.2.1")
    with pytest.raises(jobs.TooManyJobs, match="without signing in") as rejection:
        submit_anonymous("192.0.2.1")
    assert (rejection.value.status, rejection.value.code) == (429, "too_many_jobs")
    # Running ones count, and finished ones do not.
    claim_jobs(1)
    with pytest.raises(jobs.TooManyJobs):
        submit_anonymous("192.0.2.1")
    completion.finish(Claim.of(stored(one)), Succeeded())
    submit_anonymous("192.0.2.1")
    for number in range(11):
        submit_anonymous(f"2001:db8:{number}::")
    for _ in range(3):  # clients behind a Unix socket are not told apart
        submit_anonymous()
    with pytest.raises(jobs.QueueFull) as rejection:
        submit_anonymous("192.0.2.2")
    assert rejection.value.retry_after_s == 60  # one has finished
    submit(reader, "heavy_computation")
    assert "192.0.2" not in str(list(Job.objects.values_list("anonymous_client")))


@pytest.mark.django_db(transaction=True)
def test_simultaneous_anonymous_jobs_do_not_exceed_the_limit():
    barrier = Barrier(6)

    def submit_one() -> None:
        barrier.wait()
        try:
            submit_anonymous("192.0.2.1")
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        tried = [threads.submit(submit_one) for _ in range(6)]
    errors = [one.exception() for one in tried]
    assert errors.count(None) == Job.objects.count() == 2
    assert {type(error) for error in errors if error} == {jobs.TooManyAnonymousJobs}


def test_upload_is_stored_and_copied_when_run_again(editor):
    content = b"id,name\n" + b"x" * (files.CHUNK_BYTES + 5)
    job = submit_file(editor, content)
    assert job.params == {"file": "my.csv"}
    again = jobs.run_again(job, owner=editor)
    for one in (job, again):
        file = one.files.get(kind=JobFile.Kind.INPUT)
        assert b"".join(files.read(file)) == content
        assert (file.name, file.size, file.complete) == ("file", len(content), True)
        assert file.content_type == "text/csv"
    untyped = submit_file(editor, content, "")
    assert untyped.files.get().content_type == "application/octet-stream"


def submit_file(
    owner: User, content: bytes, content_type: str = "text/csv", key: str = ""
) -> Job:
    upload = SimpleUploadedFile("my.csv", content, content_type)
    task, params = get_task("import_items"), {"file": upload}
    return jobs.submit(task=task, params=params, owner=owner, idempotency_key=key)


@pytest.mark.once
def test_same_key_with_another_file_is_an_error(editor):
    first = submit_file(editor, b"id,name\n1,x\n", key="k")
    assert submit_file(editor, b"id,name\n1,x\n", key="k") == first
    with pytest.raises(KeyReused):
        submit_file(editor, b"id,name\n1,y\n", key="k")


@pytest.mark.once
def test_run_again_requires_permission_and_is_done_once_per_key(reader, editor):
    first, second = submit(editor, "for_editors"), submit(editor, "for_editors")
    with pytest.raises(NotAllowed):
        jobs.run_again(first, owner=reader)
    again = jobs.run_again(first, owner=editor, idempotency_key="k")
    assert jobs.run_again(first, owner=editor, idempotency_key="k") == again
    with pytest.raises(KeyReused):
        jobs.run_again(second, owner=editor, idempotency_key="k")


# --- claims and completion


def test_only_the_latest_claim_completes_a_job(reader):
    job = submit(reader)
    (old,) = claim_jobs()
    Job.objects.update(state="queued", lease_until=None)
    (new,) = claim_jobs()
    assert new.epoch == old.epoch + 1
    late = Succeeded("old"), Failed("error", "old"), Released(), Lost()
    assert not any(completion.finish(old, outcome) for outcome in late)
    assert completion.finish(new, Succeeded("new"))
    assert not completion.finish(new, Succeeded("twice"))
    job = stored(job)
    assert (job.state, job.result, job.attempts) == ("succeeded", "new", 2)


def test_log_names_the_jobs_whose_outcome_is_dropped(reader, caplog):
    jobs = [submit(reader) for _ in range(3)]
    first, second, third = claim_jobs()
    completion.finish(second, Released())
    completion.finish(third, Released())
    failed = Failed("error", "late")
    completion.finish_all(
        [(first, Succeeded(1)), (second, Succeeded(2)), (third, failed)]
    )
    assert str(jobs[0].pk) not in caplog.text
    assert f"dropped: {jobs[1].pk}, {jobs[2].pk}" in caplog.text
    assert stored(jobs[0]).result == 1


def test_lost_claim_writes_nothing_over_the_next_run(reader):
    """No progress, result, lease, file or end."""
    job = submit(reader)
    (old,) = claim_jobs()
    make_file(stored(job), "old.txt", b"old")
    completion.finish(old, Released())
    assert write_late(old) == [False] * 4
    (new,) = queue.claim("other", 1)
    assert new.attempt == 1  # the one that was released does not count
    queue.record_progress(new, 0.1, "new")
    lease = stored(job).lease_until
    assert write_late(old) == [False] * 4
    assert queue.renew_leases("worker") == []
    job = stored(job)
    assert (job.fraction, job.message, job.result) == (0.1, "new", None)
    assert (job.state, job.lease_until) == ("running", lease)
    make_file(job, "new.txt", b"new")
    completion.finish(new, Succeeded("new"))
    assert [file.name for file in stored(job).result_files()] == ["new.txt"]


def write_late(claim: Claim) -> list[bool]:
    queue.record_progress(claim, 0.5, "late")
    queue.store_result(claim, "late")
    late = Succeeded("late"), Failed("error", "late"), Released(), Cancelled()
    return [completion.finish(claim, outcome) for outcome in late]


def test_lost_part_writes_nothing_over_the_next_run(reader):
    job = split(reader, 1)
    (old,) = claim_jobs(1)
    completion.finish(old, Released())
    (new,) = queue.claim("other", 1)
    queue.record_progress(new, 0.5, "new")
    assert write_late(old) == [False] * 4
    assert (stored(job).message, stored(job).parts_left) == ("new", 1)
    part = job.parts.get()
    assert (part.fraction, part.message, part.state) == (0.5, "new", "running")


def test_jobs_are_claimed_once_in_order_of_submission(reader):
    submitted = [submit(reader).pk for _ in range(5)]
    taken = [claim.job_id for claim in claim_jobs(3) + claim_jobs(3) + claim_jobs(3)]
    assert taken == submitted


def test_anonymous_jobs_are_claimed_last_and_only_so_many(reader):
    anonymous = [submit_anonymous().pk for _ in range(3)]
    people = [submit(reader).pk for _ in range(3)]
    taken = [claim.job_id for claim in queue.claim("w", 2, anonymous=1)]
    taken += [claim.job_id for claim in queue.claim("w", 3, anonymous=1)]
    assert taken == [*people, anonymous[0]]
    assert queue.claim("w", 3, anonymous=0) == queue.claim("w", 3, anonymous=-1) == []
    assert jobs.count_ahead(submit(reader)) == 0


def test_parts_of_anonymous_jobs_are_anonymous(reader):
    submit_anonymous()
    (claim,) = claim_jobs()
    assert claim.is_anonymous
    completion.finish(claim, Split([{"start": 0, "stop": 10}]))
    assert [part.is_anonymous for part in claim_jobs()] == [True]


def test_anonymous_jobs_that_are_not_awaited_any_more_are_cancelled(reader):
    late, split, running, fresh = (submit_anonymous() for _ in range(4))
    own = submit(reader)
    (claim,) = queue.claim("w", 1, split.pk)
    completion.finish(claim, Split([{"start": 0, "stop": 10}]))
    queue.claim("w", 1, running.pk)
    created = timezone.now() - timedelta(seconds=completion.UNAWAITED_AFTER_S + 1)
    Job.objects.exclude(pk=fresh.pk).update(created_at=created)
    completion.cancel_unawaited()
    assert {stored(job).state for job in (late, split, split.parts.get())} == {
        "cancelled"
    }
    assert [claim.job_id for claim in queue.get_cancelled("w")] == [running.pk]
    assert {stored(job).state for job in (fresh, own)} == {"queued"}
    assert jobs.retry(late)
    completion.cancel_unawaited()
    assert stored(late).state == "queued"


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_cancellation_for_a_client_that_has_left_raises_no_error():
    waiting, done = submit_anonymous(), submit_anonymous()
    (claim,) = queue.claim("w", 1, done.pk)
    completion.finish(claim, Succeeded())
    for job in (waiting, done):
        jobs.cancel_unawaited(job.pk)
        assert connection.connection is None  # that of the thread is closed
    assert (stored(waiting).state, stored(done).state) == ("cancelled", "succeeded")


@pytest.mark.once
def test_owner_and_permission_decide_who_may_cancel(reader, editor, admin):
    own, anonymous = submit(reader), submit_anonymous()
    allowed = [jobs.may_cancel(own, user) for user in (reader, editor, admin)]
    assert allowed == [True, False, True]
    assert not jobs.may_cancel(anonymous, AnonymousUser())


def test_claim_of_one_job_requires_that_it_is_due(reader):
    first, second = submit(reader), submit(reader)
    assert [c.job_id for c in queue.claim("w", 1, second.pk)] == [second.pk]
    assert queue.claim("w", 1, second.pk) == []
    Job.objects.filter(pk=first.pk).update(
        run_after=timezone.now() + timedelta(seconds=60)
    )
    assert queue.claim("w", 1, first.pk) == []


@pytest.mark.skipif(connection.vendor == "sqlite", reason="of PostgreSQL's planner")
def test_no_query_plan_claims_more_than_the_limit(reader):
    """A subquery on the inner side of a nested loop runs, and locks, once a row."""
    for _ in range(5):
        submit(reader)
    with connection.cursor() as cursor:
        for kind in ("hashagg", "hashjoin", "mergejoin", "material", "sort"):
            cursor.execute(f"SET LOCAL enable_{kind} = off")
    assert [len(claim_jobs(1)), len(claim_jobs(2)), len(claim_jobs())] == [1, 2, 2]


def test_expired_lease_requeues_without_a_failure_unless_it_is_renewed(reader):
    job = submit(reader)
    (claim,) = claim_jobs()
    assert completion.requeue_lost() == 0
    expire_leases()
    assert [held.job_id for held in queue.renew_leases("worker")] == [job.pk]
    assert not completion.finish(claim, Lost())
    expire_leases()
    assert completion.requeue_lost() == 1
    job = stored(job)
    assert (job.state, job.attempts, job.failures) == ("queued", 1, 0)


def test_job_that_kills_its_workers_fails(reader):
    job = submit(reader)
    (claim,) = claim_jobs()
    completion.finish(claim, Failed("crashed", "Of itself.", retry=True))
    Job.objects.update(run_after=None)
    for _ in range(11):
        assert stored(job).state == "queued"
        claim_jobs()
        expire_leases()
        completion.requeue_lost()
    job = stored(job)
    assert (job.state, job.error_code) == ("failed", "worker_lost")


def test_delay_between_attempts_doubles(reader):
    job = submit(reader)
    for failures, delay in ((1, 1), (2, 2), (3, None)):
        (claim,) = claim_jobs()
        before = timezone.now()
        completion.finish(claim, Failed("crashed", "Bang.", retry=True))
        job = stored(job)
        if delay:
            assert (job.state, job.failures) == ("queued", failures)
            assert delay - 0.1 <= (job.run_after - before).total_seconds()
            assert (job.run_after - timezone.now()).total_seconds() <= delay
            Job.objects.update(run_after=None)
    assert (job.state, job.error_detail) == ("failed", "Bang. (Tried 3 times.)")


@pytest.mark.once
@pytest.mark.parametrize(
    ("failures", "detail"), [(0, "Bang."), (1, "Bang. (Tried 2 times.)")]
)
def test_failure_is_not_retried_without_its_task(failures, detail):
    job = make_job(task="gone", run_after=None, failures=failures)
    (claim,) = claim_jobs()
    completion.finish(claim, Failed("crashed", "Bang.", retry=True))
    job = stored(job)
    assert (job.state, job.error_detail) == ("failed", detail)


# --- cancel and retry


def test_cancel_is_immediate_for_queued_and_requested_for_running(reader):
    job = submit(reader)
    assert jobs.cancel(job).state == "cancelled"
    assert jobs.cancel(job).state == "cancelled"
    assert claim_jobs() == []

    job = submit(reader)
    (claim,) = claim_jobs()
    assert jobs.cancel(job).cancel_requested
    assert queue.get_cancelled("worker") == [claim]
    # It crashed before it was killed: it is not retried.
    completion.finish(claim, Failed("crashed", "Bang.", retry=True))
    assert stored(job).state == "cancelled"


def test_job_that_finishes_before_it_is_killed_has_succeeded(reader):
    job = submit(reader)
    (claim,) = claim_jobs()
    jobs.cancel(job)
    completion.finish(claim, Succeeded("done"))
    assert stored(job).state == "succeeded"
    with pytest.raises(Conflict, match="succeeded already"):
        jobs.cancel(job)


def test_failed_job_is_retried(reader):
    job = submit(reader)
    (claim,) = claim_jobs()
    assert not jobs.retry(job)
    jobs.cancel(job)
    completion.finish(claim, Failed("task_failed", "No."))
    assert jobs.retry(job)
    job = stored(job)
    assert (job.state, job.error, job.attempts) == ("queued", None, 0)
    assert (job.failures, job.fraction, job.cancel_requested) == (0, 0, False)
    (claim,) = claim_jobs()
    completion.finish(claim, Succeeded(1))
    assert not jobs.retry(job)


# --- parts


def split(reader: User, parts: int = 2) -> Job:
    job = submit(reader, "in_parts")
    submit(reader)  # parts are queued before this one
    (claim,) = claim_jobs(1)
    assert completion.finish(claim, Split([{"number": n} for n in range(parts)]))
    return stored(job)


def test_job_in_parts_is_merged_after_all_parts(reader):
    job = split(reader)
    assert (job.state, job.parts_left, job.lease_until) == ("running", 2, None)
    one, two, other = claim_jobs()
    assert (one.step, two.step, other.step) == ("part", "part", "main")
    queue.record_progress(one, 0.5, "half")
    assert stored(job).fraction == pytest.approx(0.1 + 0.8 * 0.25)
    completion.finish(two, Succeeded(2))
    assert stored(job).fraction == pytest.approx(0.1 + 0.8 * 0.75)
    assert stored(job).message == "half"
    completion.finish_all([(one, Succeeded(1))])
    assert job.parts.get(part=0).message == ""
    (merge,) = claim_jobs()
    assert (merge.job_id, merge.step) == (job.pk, "merge")
    queue.record_progress(merge, 0.5, "merging")
    assert stored(job).fraction == pytest.approx(0.95)
    completion.finish(merge, Succeeded([1, 2]))
    job = stored(job)
    assert (job.state, job.result, job.attempts) == ("succeeded", [1, 2], 1)
    assert {job.parent for job in Job.objects.visible_to(reader)} == {None}


def test_parts_that_succeed_together_are_counted_without_lost_ones(reader):
    job = split(reader, 3)
    claims = claim_jobs(3)
    completion.finish(claims[0], Released())
    completion.finish_all([(claim, Succeeded(1)) for claim in claims])
    assert (stored(job).state, stored(job).parts_left) == ("running", 1)
    (again,) = claim_jobs(1)
    completion.finish_all([(again, Succeeded(1))])
    (merge,) = claim_jobs(1)
    assert (merge.job_id, merge.step) == (job.pk, "merge")


def test_result_that_is_stored_before_the_end_is_kept(reader):
    job = split(reader, 1)
    for claim in claim_jobs():  # the part and another job
        queue.store_result(claim, "large")
        completion.finish(claim, Succeeded(stored=True))
    others = Job.objects.exclude(pk=job.pk)
    assert [(job.state, job.result) for job in others] == [("succeeded", "large")] * 2


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_workers_are_notified_of_what_they_can_claim_or_have_to_stop(
    reader, other_connection
):
    other_connection.autocommit = True
    other_connection.execute(f"LISTEN {queue.CHANNEL}")

    def is_notified() -> bool:
        return any(other_connection.notifies(timeout=60, stop_after=1))

    job = submit(reader, "in_parts")
    assert is_notified()
    (main,) = claim_jobs()
    completion.finish(main, Split([{"number": n} for n in range(2)]))
    assert is_notified()
    one, two = claim_jobs()
    completion.finish(one, Succeeded(1))
    completion.finish(two, Succeeded(2))
    assert is_notified()
    (merge,) = claim_jobs()
    completion.finish(merge, Failed("task_failed", "No."))
    assert jobs.retry(job)
    assert is_notified()
    jobs.cancel(job)
    assert is_notified()


@pytest.mark.parametrize(
    ("part", "outcome", "state", "detail"),
    [
        (0, Failed("task_failed", "No."), "failed", "Part 1: No."),
        (1, Failed("task_failed", "No."), "failed", "Part 2: No."),
        (1, Cancelled(), "cancelled", ""),
    ],
)
def test_part_that_ends_without_success_ends_the_job_and_its_siblings(
    reader, part, outcome, state, detail
):
    job = split(reader, 3)
    completion.finish(claim_jobs(2)[part], outcome)
    job = stored(job)
    assert (job.state, job.error_detail) == (state, detail)
    states = dict(job.parts.values_list("part", "state"))
    assert states == {0: "running", 1: "running", 2: "cancelled", part: state}
    assert job.parts.get(state="running").cancel_requested


def test_failed_job_that_is_retried_starts_its_parts_anew(reader):
    job = split(reader, 3)
    failed, done, running = claim_jobs(3)
    completion.finish(done, Succeeded("old"))
    completion.finish(failed, Failed("task_failed", "No."))
    assert jobs.retry(stored(job))
    main, _ = claim_jobs()
    assert (main.job_id, main.step) == (job.pk, "main")
    assert not job.parts.exists()
    assert write_late(running) == [False] * 4
    completion.finish(main, Split([{"number": n} for n in range(2)]))
    for part in claim_jobs():
        assert part.step == "part"
        completion.finish(part, Succeeded("new"))
    (merge,) = claim_jobs()
    context = TaskContext(merge, lambda fraction, message: None)
    assert (merge.step, context.part_results()) == ("merge", ["new", "new"])


def test_lost_part_is_repeated(reader):
    split(reader, 1)
    (claim,) = claim_jobs(1)
    expire_leases()
    completion.requeue_lost()
    (again,) = claim_jobs(1)
    assert not completion.finish(claim, Succeeded("old"))
    completion.finish(again, Succeeded("new"))
    (merge,) = claim_jobs(1)
    assert merge.step == "merge"


def test_cancelling_a_job_cancels_its_parts(reader):
    job = split(reader, 3)
    (one,) = claim_jobs(1)
    assert jobs.cancel(job).state == "cancelled"
    assert {claim.step for claim in claim_jobs()} == {"main"}
    completion.finish(one, Cancelled())
    assert set(job.parts.values_list("state", flat=True)) == {"cancelled"}


def test_cancelling_a_part_cancels_its_whole(reader):
    """As an operator of Celery does, who sees each of them."""
    job = split(reader)
    part = job.parts.get(part=1)
    assert jobs.cancel(part).pk == job.pk
    assert stored(job).state == stored(part).state == "cancelled"


def test_progress_is_stored_within_bounds(reader):
    for reported, shown in ((0.5, 0.5), (7, 1), (-7, 0)):
        job = submit(reader, "echo")
        (claim,) = claim_jobs()
        queue.record_progress(claim, reported, "so far")
        assert (stored(job).fraction, stored(job).message) == (shown, "so far")
    # Its parts are gone as it was retried.
    queue.record_parts_progress(job.pk)
    assert stored(job).fraction == 0.1


@pytest.mark.once
def test_files_of_attempts_that_failed_are_deleted(reader):
    for state in ("succeeded", "failed", "cancelled", "running"):
        job = make_job(state)
        job.epoch = 0
        make_file(job, f"{state}, earlier", b"x")
        job.epoch = 1
        make_file(job, f"{state}, last", b"x")
        with files.create(job, f"{state}, input", "", kind=JobFile.Kind.INPUT):
            pass
    outputs = JobFile.objects.filter(kind=JobFile.Kind.OUTPUT)
    assert [queue.delete_orphaned_files() for _ in range(2)] == [5, 0]
    assert {file.name for file in outputs} == {
        "succeeded, last", "running, earlier", "running, last",
    }  # fmt: skip
    assert JobFile.objects.filter(kind=JobFile.Kind.INPUT).count() == 4
