"""Taking jobs and holding them: the SQL that every kind of worker shares.

A job is taken by raising its epoch, and whatever its worker says of it names this epoch
(see compute.completion).
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Avg, F, Q
from django.db.models.functions import Now

from compute.models import MESSAGE_MAX, Job, JobFile

CHANNEL = "compute_jobs"
LEASE_S = 10
# More would hold up the supervisor, who has leases to renew.
FORGOTTEN_AT_ONCE = 500

# The database's clock, so that machines need not agree on the time.
NOW = {
    "postgresql": "statement_timestamp()",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
LEASE = {
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
    now, lease = NOW[connection.vendor], LEASE[connection.vendor]
    due = f"state = 'queued' AND (run_after IS NULL OR run_after <= {now})"
    if job_id:
        # A lock on it is waited for: the named job is not looked for a second time.
        which, value = f"id = %s AND {due}", as_column(job_id)
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


def as_column(job_id: UUID) -> Any:
    """Return the id as a parameter of SQL."""
    return Job._meta.pk.get_db_prep_value(job_id, connection)


def renew(worker: str) -> list[Claim]:
    """Renew the leases of `worker`, and return all that it holds."""
    jobs = Job.objects.raw(
        f"""
        UPDATE compute_job SET lease_until = {LEASE[connection.vendor]}
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
        report_parts(claim.parent_id, message)


def _splits(claim: Claim) -> bool:
    from compute.registry import tasks

    task = tasks.get(claim.task)
    return task is not None and task.part_function is not None


def report_parts(parent_id: UUID, message: str | None = None) -> None:
    """Keep how far a job in parts has come, from how far they have."""
    done = Job.objects.filter(parent=parent_id).aggregate(mean=Avg("fraction"))
    changes: dict[str, Any] = {"fraction": 0.1 + 0.8 * (done["mean"] or 0)}
    if message is not None:
        changes["message"] = message[:MESSAGE_MAX]
    Job.objects.filter(pk=parent_id, state=Job.State.RUNNING).update(**changes)


def _held(claim: Claim) -> Any:
    return Job.objects.filter(
        pk=claim.job_id, epoch=claim.epoch, state=Job.State.RUNNING
    )


def keep_result(claim: Claim, result: Any) -> None:
    """Write the result of a run that is about to succeed."""
    _held(claim).update(result=result)


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
