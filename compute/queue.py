"""Taking jobs and ending them: the SQL that every kind of worker shares.

A job is taken by raising its epoch and ended by an UPDATE that names this epoch. Of
two workers that hold the same job for any reason (a stopped process that wakes up, a
message delivered twice), one can end it; what the other brings is dropped. So a job
may run more than once, but has one end.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Avg, F, Q
from django.db.models.functions import Now

from compute.models import ERROR_MAX, MESSAGE_MAX, Job, JobFile
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

logger = logging.getLogger(__name__)

CHANNEL = "compute_jobs"
LEASE_S = 10
# Between two tries of a job: 1 s, 2 s, 4 s, and so on.
BACKOFF_MAX_S = 60
# A worker that dies takes no blame to its job, but some jobs kill their worker.
LOST_MAX = 10
# More would hold up the supervisor, who has leases to renew.
FORGOTTEN_AT_ONCE = 500

# The database's clock, so that machines need not agree on the time.
_NOW = {
    "postgresql": "statement_timestamp()",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
_LEASE = {
    "postgresql": f"statement_timestamp() + interval '{LEASE_S} seconds'",
    "sqlite": f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '+{LEASE_S} seconds')",
}


class Step(StrEnum):
    """Which of a task's functions is to run."""

    MAIN = "main"
    PART = "part"
    MERGE = "merge"


@dataclass(frozen=True)
class Claim:
    """A job in the hands of one worker, for one run: told by its id and epoch."""

    job_id: UUID
    epoch: int
    task: str = field(compare=False)
    params: dict[str, Any] = field(compare=False)
    attempt: int = field(compare=False)
    owner_id: int | None = field(compare=False)
    request_id: str = field(compare=False)
    traceparent: str = field(compare=False)
    parent_id: UUID | None = field(compare=False)
    step: Step = field(compare=False)

    @classmethod
    def of(cls, job: Job) -> "Claim":
        if job.parent_id:
            step = Step.PART
        else:
            step = Step.MAIN if job.parts_left is None else Step.MERGE
        return cls(
            job_id=job.pk,
            epoch=job.epoch,
            task=job.task,
            params=job.params,
            attempt=job.attempts,
            owner_id=job.owner_id,
            request_id=job.request_id,
            traceparent=job.traceparent,
            parent_id=job.parent_id,
            step=step,
        )


def claim(worker: str, limit: int, job_id: UUID | None = None) -> list[Claim]:
    """Take up to `limit` jobs that are due, or the one that is named, if it is."""
    now, lease = _NOW[connection.vendor], _LEASE[connection.vendor]
    due = f"state = 'queued' AND (run_after IS NULL OR run_after <= {now})"
    if job_id:
        # A lock on it is waited for: the named job is not looked for a second time.
        which, value = f"id = %s AND {due}", _as_column(job_id)
    else:
        first = f"WHERE {due} ORDER BY queued_at, id LIMIT %s"
        which, value = _FIRST[connection.vendor].format(first), limit
    jobs = Job.objects.raw(
        f"""
        UPDATE compute_job
        SET state = 'running', worker = %s, epoch = epoch + 1,
            attempts = attempts + 1, lease_until = {lease},
            started_at = coalesce(started_at, {now})
        WHERE {which}
        RETURNING *
        """,  # noqa: S608 - put together of constants
        [worker, value],
    )
    in_order = sorted(jobs, key=lambda job: (job.queued_at, job.pk))
    return [Claim.of(job) for job in in_order]


_FIRST = {
    # An array is made once: a subquery may be run, and lock more, for each row.
    "postgresql": """
        id = ANY(ARRAY(SELECT id FROM compute_job {} FOR UPDATE SKIP LOCKED))
    """,
    "sqlite": "id IN (SELECT id FROM compute_job {})",
}


def _as_column(job_id: UUID) -> Any:
    return Job._meta.pk.get_db_prep_value(job_id, connection)


def renew(worker: str) -> list[Claim]:
    """Renew the leases of `worker`, and return all that it holds."""
    jobs = Job.objects.raw(
        f"""
        UPDATE compute_job SET lease_until = {_LEASE[connection.vendor]}
        WHERE worker = %s AND state = 'running' AND lease_until IS NOT NULL
        RETURNING *
        """,  # noqa: S608
        [worker],
    )
    return [Claim.of(job) for job in jobs]


def cancellations(worker: str) -> dict[UUID, int]:
    """Return the jobs of `worker` that are to be stopped, with their epochs."""
    rows = Job.objects.filter(
        state=Job.State.RUNNING,
        lease_until__isnull=False,
        worker=worker,
        cancel_requested=True,
    )
    return dict(rows.values_list("pk", "epoch"))


def report(claim: Claim, fraction: float, message: str) -> None:
    """Keep how far a job has come."""
    fraction = min(max(fraction, 0.0), 1.0)
    if claim.step is Step.MERGE:
        fraction = 0.9 + 0.1 * fraction
    elif claim.step is Step.MAIN and _splits(claim):
        fraction = 0.1 * fraction
    _held(claim).update(fraction=fraction, message=message[:MESSAGE_MAX])
    if claim.parent_id:
        _report_parts(claim.parent_id, message)


def _splits(claim: Claim) -> bool:
    from compute.registry import tasks

    task = tasks.get(claim.task)
    return task is not None and task.part_function is not None


def _report_parts(parent_id: UUID, message: str | None = None) -> None:
    done = Job.objects.filter(parent=parent_id).aggregate(mean=Avg("fraction"))
    changes: dict[str, Any] = {"fraction": 0.1 + 0.8 * (done["mean"] or 0)}
    if message is not None:
        changes["message"] = message[:MESSAGE_MAX]
    Job.objects.filter(pk=parent_id, state=Job.State.RUNNING).update(**changes)


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
        values += [_as_column(claim.job_id), claim.epoch, outcome.stored, stored]
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
                finished_at = {_NOW[connection.vendor]},
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
    return [claim for claim in ended if _as_column(claim.job_id) not in written]


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


def _held(claim: Claim) -> Any:
    return Job.objects.filter(
        pk=claim.job_id, epoch=claim.epoch, state=Job.State.RUNNING
    )


def _lock(**which: Any) -> Job | None:
    return Job.objects.select_for_update().filter(**which).first()


def keep_result(claim: Claim, result: Any) -> None:
    """Write the result of a run that is about to succeed."""
    _held(claim).update(result=result)


def _success(outcome: Succeeded) -> dict[str, Any]:
    return ({} if outcome.stored else {"result": outcome.result}) | {
        "state": Job.State.SUCCEEDED,
        "fraction": 1.0,
        "message": "",
        "error_code": "",
        "error_detail": "",
        "finished_at": Now(),
        "lease_until": None,
    }


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
        _report_parts(parent.pk)
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


def forget_old() -> int:
    """Delete jobs that ended long ago, with their files; return how many."""
    kept_for = timedelta(days=settings.COMPUTE_KEEP_DAYS)
    old = Job.objects.filter(parent=None, finished_at__lt=Now() - kept_for).order_by(
        "finished_at"
    )[:FORGOTTEN_AT_ONCE]
    return len([job.delete() for job in old])


def forget_leftovers() -> int:
    """Delete files of tries that came to nothing; return how many."""
    unused = Q(job__state=Job.State.SUCCEEDED) & ~Q(epoch=F("job__epoch"))
    unused |= Q(job__state__in=(Job.State.FAILED, Job.State.CANCELLED))
    files = JobFile.objects.filter(unused, kind=JobFile.Kind.OUTPUT)
    return files.delete()[0]


def notify() -> None:
    """Wake the workers when this transaction commits."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
