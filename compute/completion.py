"""The ends of jobs, and of single runs of them.

A run is ended by an UPDATE that names the epoch in which its job was taken. Of two
workers that hold the same job for any reason (a stopped process that wakes up, a
message delivered twice), one can end it; what the other brings is dropped. So a job
may run more than once, but has one end.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from compute.models import ERROR_MAX, MESSAGE_MAX, Job
from compute.outcomes import (
    Cancelled,
    Code,
    Failed,
    HandedBack,
    Lost,
    Outcome,
    Split,
    Succeeded,
)
from compute.queue import NOW, Claim, as_column, notify, report_parts

logger = logging.getLogger(__name__)

# Between two tries of a job: 1 s, 2 s, 4 s, and so on.
BACKOFF_MAX_S = 60
# A worker that dies takes no blame to its job, but some jobs kill their worker.
LOST_MAX = 10


def finish_all(ended: Sequence[tuple[Claim, Outcome]]) -> list[Claim]:
    """End these runs; return those that were no longer the worker's to end."""
    plain: dict[Claim, Succeeded] = {}
    lost = []
    for claim, outcome in ended:
        if isinstance(outcome, Succeeded) and not claim.parent_id:
            plain[claim] = outcome
        elif not finish(claim, outcome):
            lost.append(claim)
    return lost + _succeed(plain) if plain else lost


def _succeed(ended: Mapping[Claim, Succeeded]) -> list[Claim]:
    """Do it in one statement, as so many jobs may end at a time."""
    result = Job._meta.get_field("result")
    values = []
    for claim, outcome in ended.items():
        stored = result.get_db_prep_save(outcome.result, connection)
        values += [as_column(claim.job_id), claim.epoch, outcome.stored, stored]
    row = _ENDED[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH ended (id, epoch, stored, result) AS (
                VALUES {", ".join([row] * len(ended))}
            )
            UPDATE compute_job
            SET state = 'succeeded', fraction = 1, message = '', error_code = '',
                error_detail = '', lease_until = NULL,
                finished_at = {NOW[connection.vendor]},
                result = CASE WHEN ended.stored
                    THEN compute_job.result ELSE ended.result END
            FROM ended
            WHERE compute_job.id = ended.id AND compute_job.epoch = ended.epoch
                AND compute_job.state = 'running'
            RETURNING compute_job.id
            """,  # noqa: S608 - put together of constants
            values,
        )
        written = {row[0] for row in cursor.fetchall()}
    return [claim for claim in ended if as_column(claim.job_id) not in written]


_ENDED = {
    "postgresql": "(%s::uuid, %s::int, %s::boolean, %s::jsonb)",
    "sqlite": "(%s, %s, %s, %s)",
}


def finish(claim: Claim, outcome: Outcome) -> bool:
    """End this run of a job; False if it was no longer the worker's to end."""
    if isinstance(outcome, Succeeded) and not claim.parent_id:
        return not _succeed({claim: outcome})
    with transaction.atomic():
        # The job in parts always before a part of it, as two may end at once.
        parent = _lock(pk=claim.parent_id) if claim.parent_id else None
        # A lease that was renewed in the meantime is not lost.
        late = {"lease_until__lt": Now()} if isinstance(outcome, Lost) else {}
        job = _lock(pk=claim.job_id, epoch=claim.epoch, state=Job.State.RUNNING, **late)
        if job is None:
            return False
        _apply(job, outcome)
        if parent and parent.state == Job.State.RUNNING:
            _after_part(parent, job)
    return True


def _lock(**which: Any) -> Job | None:
    return Job.objects.select_for_update().filter(**which).first()


def _success(outcome: Succeeded) -> dict[str, Any]:
    changes = _ended(Job.State.SUCCEEDED) | {"fraction": 1.0, "message": ""}
    return changes if outcome.stored else changes | {"result": outcome.result}


def _apply(job: Job, outcome: Outcome) -> None:
    match outcome:
        case Succeeded():
            changes = _success(outcome)
        case Split():
            changes = _split(job, outcome)
        case _ if job.cancel_requested:
            changes = _ended(Job.State.CANCELLED)
        case Cancelled():
            changes = _ended(Job.State.CANCELLED)
        case HandedBack():
            changes = _requeued(attempts=job.attempts - 1)
        case Lost():
            changes = _lost(job)
        case Failed():
            changes = _failed(job, outcome)
    for name, value in changes.items():
        setattr(job, name, value)
    job.save(update_fields=list(changes))


def _split(job: Job, outcome: Split) -> dict[str, Any]:
    """Make the parts; they take the job's own place in the queue."""
    Job.objects.bulk_create(
        Job(
            task=job.task,
            params=params,
            owner_id=job.owner_id,
            request_id=job.request_id,
            traceparent=job.traceparent,
            queued_at=job.queued_at,
            parent=job,
            part=number,
        )
        for number, params in enumerate(outcome.params)
    )
    notify()
    return {"parts_left": len(outcome.params), "lease_until": None, "fraction": 0.1}


def _ended(state: Job.State, code: str = "", detail: str = "") -> dict[str, Any]:
    return {
        "state": state,
        "error_code": code,
        "error_detail": detail[:ERROR_MAX],
        "finished_at": Now(),
        "lease_until": None,
    }


def _requeued(delay_s: float = 0, **more: Any) -> dict[str, Any]:
    return {
        "state": Job.State.QUEUED,
        "run_after": Now() + timedelta(seconds=delay_s) if delay_s else None,
        "lease_until": None,
        "worker": "",
        "handed_over_at": None,
        **more,
    }


def _lost(job: Job) -> dict[str, Any]:
    if job.attempts - job.failures > LOST_MAX:
        detail = f"Its worker died {LOST_MAX} times while it was running."
        return _ended(Job.State.FAILED, Code.WORKER_LOST, detail)
    return _requeued()


def _failed(job: Job, failure: Failed) -> dict[str, Any]:
    failures = job.failures + 1
    retries = job.spec.retries if job.spec else 0
    if not failure.retry or failures > retries:
        detail = failure.detail
        if failures > 1:
            detail = f"{detail} (Tried {failures} times.)"
        return _ended(Job.State.FAILED, failure.code, detail) | {"failures": failures}
    delay_s = min(2.0 ** (failures - 1), BACKOFF_MAX_S)
    return _requeued(
        delay_s,
        failures=failures,
        message=f"To be tried again. {failure.detail}"[:MESSAGE_MAX],
    )


def _after_part(parent: Job, part: Job) -> None:
    """Carry on the job in parts when one of them has ended."""
    changes: dict[str, Any] = {}
    if part.state == Job.State.SUCCEEDED:
        report_parts(parent.pk)
        changes = {"parts_left": F("parts_left") - 1}
        if parent.parts_left == 1:
            changes |= _requeued(attempts=parent.attempts - 1)
            notify()
    elif part.state == Job.State.FAILED:
        detail = f"Part {(part.part or 0) + 1}: {part.error_detail}"
        changes = _ended(Job.State.FAILED, Code.PART_FAILED, detail)
        stop_parts(parent.pk)
    elif part.state == Job.State.CANCELLED:
        changes = _ended(Job.State.CANCELLED)
        stop_parts(parent.pk)
    if changes:
        Job.objects.filter(pk=parent.pk).update(**changes)


def stop_parts(parent_id: UUID) -> None:
    """Cancel all parts of a job that are not finished yet."""
    parts = Job.objects.filter(parent=parent_id)
    # One by one in the same order everywhere: two that do it at once must not lock up.
    for part in parts.unfinished().order_by("pk").select_for_update():
        request_stop(part)
    notify()


def request_stop(job: Job) -> None:
    """Cancel a locked job at once if nobody works on it, else ask its worker to."""
    if job.state == Job.State.RUNNING and job.lease_until is not None:
        changes: dict[str, Any] = {"cancel_requested": True}
    else:
        changes = _ended(Job.State.CANCELLED) | {"cancel_requested": True}
    Job.objects.filter(pk=job.pk).update(**changes)


def sweep() -> int:
    """Put jobs back whose worker has not been heard of; return how many."""
    swept = 0
    for job in Job.objects.abandoned().order_by("pk")[:100]:
        if finish(Claim.of(job), Lost()):
            logger.warning("Job %s was lost by its worker %s.", job.pk, job.worker)
            swept += 1
    return swept
