"""Completion of jobs and of their single runs.

A run is completed by an UPDATE that names the epoch of its claim. When two workers hold
the same job (a suspended process that resumes, a message delivered twice), only the
latest claim can complete it, and the outcome of the other is dropped. So a job may run
more than once, but completes once. Side effects outside the job's row are not undone.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import DataError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from compute.models import ERROR_MAX, MESSAGE_MAX, Job
from compute.outcomes import (
    Cancelled,
    ErrorCode,
    Failed,
    Lost,
    Outcome,
    Released,
    Split,
    Succeeded,
    Unsupported,
)
from compute.queue import NOW, Claim, as_column, notify_workers

logger = logging.getLogger(__name__)

# The delay between attempts doubles: 1 s, 2 s, 4 s, up to this.
BACKOFF_MAX_S = 60
# A lost worker is not a failure of its job, but some jobs kill their worker.
LOST_MAX = 10
# During a release, workers of the old version claim jobs of tasks that it lacks.
UNSUPPORTED_FOR = timedelta(hours=1)
UNSUPPORTED_DELAY_S = 5
# An anonymous client waits for its job for half a minute.
UNAWAITED_AFTER_S = 40


@transaction.atomic(savepoint=False)
def finish_all(finished: Iterable[tuple[Claim, Outcome]]) -> None:
    """Complete these runs; drop the outcomes of those whose claim had been lost."""
    succeeded, others = [], []
    for claim, outcome in finished:
        if isinstance(outcome, Succeeded):
            succeeded.append((claim, outcome))
        else:
            others.append((claim, outcome))
    lost = []
    if succeeded and _succeed(succeeded) < len(succeeded):
        lost = _lost(succeeded)
    lost += [claim.job_id for claim, outcome in others if not finish(claim, outcome)]
    if lost:
        logger.warning(
            "Claims on jobs had been lost, and their outcomes are dropped: %s",
            ", ".join(map(str, lost)),
        )


def _lost(succeeded: Sequence[tuple[Claim, Succeeded]]) -> list[UUID]:
    """Return the jobs that have not succeeded with these claims."""
    claims = [claim for claim, _ in succeeded]
    done = Job.objects.filter(
        pk__in=[claim.job_id for claim in claims], state=Job.State.SUCCEEDED
    )
    written = set(done.values_list("pk", "epoch"))
    return [c.job_id for c in claims if (c.job_id, c.epoch) not in written]


def _succeed(finished: Sequence[tuple[Claim, Succeeded]]) -> int:
    """Complete many runs at a time; return how many had not been lost."""
    result = Job._meta.get_field("result")
    parents = {claim.parent_id for claim, _ in finished if claim.parent_id}
    if parents:
        # Lock order: jobs in parts before their parts, as two parts may finish at once.
        in_order = Job.objects.filter(pk__in=parents).order_by("pk")
        list(in_order.select_for_update().values_list("pk"))
    with connection.cursor() as cursor:
        cursor.executemany(
            f"""
            UPDATE compute_job
            SET state = 'succeeded', fraction = 1, message = '', error_code = '',
                error_detail = '', lease_until = NULL,
                finished_at = {NOW[connection.vendor]},
                result = CASE WHEN %s THEN result ELSE %s END
            WHERE id = %s AND epoch = %s AND state = 'running'
            """,  # noqa: S608 - put together of constants
            [
                (
                    outcome.stored,
                    result.get_db_prep_save(outcome.result, connection),
                    as_column(claim.job_id),
                    claim.epoch,
                )
                for claim, outcome in finished
            ],
        )
        completed = int(cursor.rowcount)
    for parent_id in parents:
        _count_parts(parent_id)
    return completed


def _count_parts(parent_id: UUID) -> None:
    """Update a locked job some parts of which have succeeded; requeue it after all."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE compute_job
            SET fraction = 0.1 + 0.8 * parts.progress, parts_left = parts.unfinished
            FROM (
                SELECT avg(fraction) AS progress,
                       count(*) FILTER (WHERE state <> 'succeeded') AS unfinished
                FROM compute_job WHERE parent_id = %s
            ) AS parts
            WHERE id = %s AND state = 'running' AND parts_left > 0
            RETURNING parts_left
            """,
            [as_column(parent_id)] * 2,
        )
        is_last = cursor.fetchone() == (0,)
    if is_last:
        again = _requeued_fields(attempts=F("attempts") - 1)
        Job.objects.filter(pk=parent_id).update(**again)
        notify_workers()


def finish_or_fail(claim: Claim, outcome: Outcome) -> None:
    """Complete a run; fail its job if the database rejects the result."""
    try:
        finish_all([(claim, outcome)])
    except DataError as error:
        detail = f"The result cannot be stored: {error}"
        finish_all([(claim, Failed(ErrorCode.ERROR, detail))])


@transaction.atomic(savepoint=False)
def finish(claim: Claim, outcome: Outcome) -> bool:
    """Complete a run of a job; return False if the claim had been lost."""
    if isinstance(outcome, Succeeded):
        return _succeed([(claim, outcome)]) > 0
    # In the lock order of `_succeed`.
    parent = _lock(pk=claim.parent_id) if claim.parent_id else None
    # A lease renewed in the meantime is not lost.
    expired = {"lease_until__lt": Now()} if isinstance(outcome, Lost) else {}
    job = _lock(pk=claim.job_id, epoch=claim.epoch, state=Job.State.RUNNING, **expired)
    if job is None:
        return False
    _apply(job, outcome)
    if parent and parent.state == Job.State.RUNNING:
        _end_with(job, parent)
    return True


def _lock(**filters: Any) -> Job | None:
    return Job.objects.select_for_update().filter(**filters).first()


def _apply(job: Job, outcome: Outcome) -> None:
    match outcome:
        case Split():
            changes = _split(job, outcome)
        case _ if job.cancel_requested:
            changes = _finished_fields(Job.State.CANCELLED)
        case Cancelled():
            changes = _finished_fields(Job.State.CANCELLED)
        case Released():
            changes = _requeued_fields(attempts=job.attempts - 1)
        case Unsupported():
            changes = _unsupported_fields(job)
        case Lost():
            changes = _lost_fields(job)
        case Failed():
            changes = _failed_fields(job, outcome)
    for name, value in changes.items():
        setattr(job, name, value)
    job.save(update_fields=list(changes))


def _split(job: Job, outcome: Split) -> dict[str, Any]:
    """Create the parts, at the job's own position in the queue."""
    Job.objects.bulk_create(
        Job(
            task=job.task,
            params=params,
            owner_id=job.owner_id,
            anonymous_client=job.anonymous_client,
            request_id=job.request_id,
            traceparent=job.traceparent,
            queued_at=job.queued_at,
            run_after=Now(),
            parent=job,
            part=number,
        )
        for number, params in enumerate(outcome.params)
    )
    notify_workers()
    return {"parts_left": len(outcome.params), "lease_until": None, "fraction": 0.1}


def _finished_fields(
    state: Job.State, code: str = "", detail: str = ""
) -> dict[str, Any]:
    return {
        "state": state,
        "error_code": code,
        "error_detail": detail[:ERROR_MAX],
        "finished_at": Now(),
        "lease_until": None,
    }


def _requeued_fields(delay_s: float = 0, **more: Any) -> dict[str, Any]:
    return {
        "state": Job.State.QUEUED,
        "run_after": Now() + timedelta(seconds=delay_s) if delay_s else Now(),
        "lease_until": None,
        "worker": "",
        "handed_over_at": None,
        **more,
    }


def _unsupported_fields(job: Job) -> dict[str, Any]:
    since = job.started_at or job.created_at
    if since < timezone.now() - UNSUPPORTED_FOR:
        detail = "This version of the site has no such task."
        return _finished_fields(Job.State.FAILED, ErrorCode.TASK_UNKNOWN, detail)
    return _requeued_fields(
        UNSUPPORTED_DELAY_S,
        attempts=job.attempts - 1,
        message="Waits for a worker of the version that has this task.",
    )


def _lost_fields(job: Job) -> dict[str, Any]:
    if job.attempts - job.failures > LOST_MAX:
        detail = f"Its worker stopped {LOST_MAX} times while the job was running."
        return _finished_fields(Job.State.FAILED, ErrorCode.WORKER_LOST, detail)
    return _requeued_fields()


def _failed_fields(job: Job, failure: Failed) -> dict[str, Any]:
    failures = job.failures + 1
    retries = job.spec.retries if job.spec else 0
    if not failure.retry or failures > retries:
        detail = failure.detail
        if failures > 1:
            detail = f"{detail} (Tried {failures} times.)"
        return _finished_fields(Job.State.FAILED, failure.code, detail) | {
            "failures": failures
        }
    delay_s = min(2.0 ** (failures - 1), BACKOFF_MAX_S)
    return _requeued_fields(
        delay_s,
        failures=failures,
        message=f"Will be retried. {failure.detail}"[:MESSAGE_MAX],
    )


def _end_with(part: Job, parent: Job) -> None:
    """End a job in parts if one of them has ended without success."""
    if part.state == Job.State.FAILED:
        detail = f"Part {(part.part or 0) + 1}: {part.error_detail}"
        changes = _finished_fields(Job.State.FAILED, ErrorCode.PART_FAILED, detail)
    elif part.state == Job.State.CANCELLED:
        changes = _finished_fields(Job.State.CANCELLED)
    else:
        return
    Job.objects.filter(pk=parent.pk).update(**changes)
    cancel_parts(parent.pk)


def cancel_parts(parent_id: UUID) -> None:
    """Cancel the unfinished parts of a job."""
    parts = Job.objects.filter(parent=parent_id)
    # Always in the same order, so that two cancellations cannot deadlock.
    for part in parts.unfinished().order_by("pk").select_for_update():
        request_cancel(part)
    notify_workers()


def request_cancel(job: Job) -> None:
    """Cancel a locked job: at once if no worker holds it, else through its worker."""
    changes: dict[str, Any]
    if job.state == Job.State.RUNNING and job.lease_until is not None:
        changes = {"cancel_requested": True}
    else:
        changes = _finished_fields(Job.State.CANCELLED)
    Job.objects.filter(pk=job.pk).update(**changes)


def cancel_unawaited() -> None:
    """Cancel the jobs of anonymous clients that have stopped waiting for them.

    Usually the web process does so; it may have died, or been without a database.
    """
    since = Now() - timedelta(seconds=UNAWAITED_AFTER_S)
    unawaited = Job.objects.unfinished().anonymous().filter(parent=None)
    late = unawaited.filter(created_at__lt=since).exclude(cancel_requested=True)
    for job_id in late.order_by("pk").values_list("pk", flat=True)[:100]:
        with transaction.atomic():
            if job := _lock(pk=job_id, state__in=Job.UNFINISHED):
                request_cancel(job)
                cancel_parts(job.pk)


def requeue_lost() -> int:
    """Requeue jobs whose lease has expired; return how many."""
    requeued = 0
    for job in Job.objects.abandoned().order_by("pk")[:100]:
        if finish(Claim.of(job), Lost()):
            logger.warning("Job %s was abandoned by its worker %s.", job.pk, job.worker)
            requeued += 1
    return requeued
