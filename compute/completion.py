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
)
from compute.queue import NOW, Claim, as_column, notify_workers, record_parts_progress

logger = logging.getLogger(__name__)

# The delay between attempts doubles: 1 s, 2 s, 4 s, up to this.
BACKOFF_MAX_S = 60
# A lost worker is not a failure of its job, but some jobs kill their worker.
LOST_MAX = 10
# An anonymous client waits for its job for half a minute.
UNAWAITED_AFTER_S = 40


def finish_all(finished: Iterable[tuple[Claim, Outcome]]) -> None:
    """Complete these runs; drop the outcomes of those whose claim had been lost."""
    succeeded, others = [], []
    for claim, outcome in finished:
        if isinstance(outcome, Succeeded) and not claim.parent_id:
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
        return int(cursor.rowcount)


def finish_or_fail(claim: Claim, outcome: Outcome) -> None:
    """Complete a run; fail its job if the database rejects the result."""
    try:
        finish_all([(claim, outcome)])
    except DataError as error:
        detail = f"The result cannot be stored: {error}"
        finish_all([(claim, Failed(ErrorCode.ERROR, detail))])


def finish(claim: Claim, outcome: Outcome) -> bool:
    """Complete a run of a job; return False if the claim had been lost."""
    if isinstance(outcome, Succeeded) and not claim.parent_id:
        return _succeed([(claim, outcome)]) > 0
    with transaction.atomic():
        # Lock order: the job in parts before its part, as two parts may finish at once.
        parent = _lock(pk=claim.parent_id) if claim.parent_id else None
        # A lease renewed in the meantime is not lost.
        expired = {"lease_until__lt": Now()} if isinstance(outcome, Lost) else {}
        job = _lock(
            pk=claim.job_id, epoch=claim.epoch, state=Job.State.RUNNING, **expired
        )
        if job is None:
            return False
        _apply(job, outcome)
        if parent and parent.state == Job.State.RUNNING:
            _update_parent(parent, job)
    return True


def _lock(**filters: Any) -> Job | None:
    return Job.objects.select_for_update().filter(**filters).first()


def _apply(job: Job, outcome: Outcome) -> None:
    match outcome:
        case Succeeded():
            changes = _finished_fields(Job.State.SUCCEEDED)
            changes |= {"fraction": 1.0, "message": ""}
            changes |= {} if outcome.stored else {"result": outcome.result}
        case Split():
            changes = _split(job, outcome)
        case _ if job.cancel_requested:
            changes = _finished_fields(Job.State.CANCELLED)
        case Cancelled():
            changes = _finished_fields(Job.State.CANCELLED)
        case Released():
            changes = _requeued_fields(attempts=job.attempts - 1)
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


def _update_parent(parent: Job, part: Job) -> None:
    """Update a job in parts after one of its parts has finished."""
    changes: dict[str, Any] = {}
    if part.state == Job.State.SUCCEEDED:
        record_parts_progress(parent.pk)
        changes = {"parts_left": F("parts_left") - 1}
        if parent.parts_left == 1:
            changes |= _requeued_fields(attempts=parent.attempts - 1)
            notify_workers()
    elif part.state == Job.State.FAILED:
        detail = f"Part {(part.part or 0) + 1}: {part.error_detail}"
        changes = _finished_fields(Job.State.FAILED, ErrorCode.PART_FAILED, detail)
        cancel_parts(parent.pk)
    elif part.state == Job.State.CANCELLED:
        changes = _finished_fields(Job.State.CANCELLED)
        cancel_parts(parent.pk)
    if changes:
        Job.objects.filter(pk=parent.pk).update(**changes)


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
