"""Job queue: claims and leases, in SQL that all kinds of worker share.

A claim increments the job's epoch, and every later write of its worker names that
epoch (see compute.completion), so a worker that has lost its job can write nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Avg, F, Q
from django.db.models.functions import Now

from compute.models import MESSAGE_MAX, Job, JobFile, JobQuerySet

CHANNEL = "compute_jobs"
# The key of an advisory lock in PostgreSQL.
PUBLISHER_LOCK = 0x72656C6179
LEASE_S = 10
# A job that was published so long ago, and is still waiting, was lost if the broker's
# queue is empty.
LOST_AFTER = timedelta(seconds=10)
# The same for a queue that is never empty.
LOST_FOR_CERTAIN_AFTER = timedelta(minutes=15)
# A larger batch would delay the supervisor's renewal of leases.
DELETE_BATCH = 500

# The database's clock: those of the machines may differ.
NOW = {
    "postgresql": "statement_timestamp()",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
LEASE_END = {
    "postgresql": "statement_timestamp() + interval '{} seconds'",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '+{} seconds')",
}


class Step(StrEnum):
    """The function of a task that a claim runs."""

    MAIN = "main"
    PART = "part"
    MERGE = "merge"


@dataclass(frozen=True)
class Claim:
    """Claim of a worker on a job for one run, identified by the job's id and epoch."""

    job_id: UUID
    epoch: int
    task: str = field(compare=False)
    params: dict[str, Any] = field(compare=False)
    attempt: int = field(compare=False)
    owner_id: int | None = field(compare=False)
    is_anonymous: bool = field(compare=False)
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
            is_anonymous=bool(job.anonymous_client),
            request_id=job.request_id,
            traceparent=job.traceparent,
            parent_id=job.parent_id,
            step=step,
        )

    @property
    def key(self) -> str:
        return f"{self.job_id}:{self.epoch}"


def anonymous_max() -> int:
    """Return how many processes of a pool may run jobs of anonymous clients."""
    return max(1, settings.COMPUTE_PROCESSES // 2)


def claim(
    worker: str, limit: int, job_id: UUID | None = None, *, anonymous: int | None = None
) -> list[Claim]:
    """Claim up to `limit` due jobs, or the job `job_id` if it is due.

    Jobs of anonymous clients come last, up to `anonymous` of them.
    """
    if job_id:
        # Waits for a lock on it: a broker delivers a job only once.
        return _claim(worker, f"id = %s AND {_due()}", as_column(job_id))
    claims = _claim_first(worker, limit, "anonymous_client = ''")
    left = limit - len(claims)
    if anonymous is not None:
        left = min(left, anonymous)
    if left > 0:
        claims += _claim_first(worker, left, "anonymous_client <> ''")
    return claims


def _claim_first(worker: str, limit: int, whose: str) -> list[Claim]:
    first = f"WHERE {_due()} AND {whose} ORDER BY queued_at, id LIMIT %s"
    return _claim(worker, _FIRST[connection.vendor].format(first), limit)


def _due() -> str:
    now = NOW[connection.vendor]
    return f"state = 'queued' AND (run_after IS NULL OR run_after <= {now})"


def _claim(worker: str, which: str, value: Any) -> list[Claim]:
    now = NOW[connection.vendor]
    lease_end = LEASE_END[connection.vendor].format(LEASE_S)
    jobs = Job.objects.raw(
        f"""
        UPDATE compute_job
        SET state = 'running', worker = %s, epoch = epoch + 1,
            attempts = attempts + 1, lease_until = {lease_end},
            started_at = coalesce(started_at, {now})
        WHERE {which}
        RETURNING *
        """,  # noqa: S608 - put together of constants
        [worker, value],
    )
    in_order = sorted(jobs, key=lambda job: (job.queued_at, job.pk))
    return [Claim.of(job) for job in in_order]


_FIRST = {
    # An array is built once; a subquery may run, and lock more, once for each row.
    "postgresql": """
        id = ANY(ARRAY(SELECT id FROM compute_job {} FOR UPDATE SKIP LOCKED))
    """,
    "sqlite": "id IN (SELECT id FROM compute_job {})",
}


def as_column(job_id: UUID) -> Any:
    """Return the id as an SQL parameter."""
    return Job._meta.pk.get_db_prep_value(job_id, connection)


def renew_leases(worker: str) -> list[Claim]:
    """Renew the leases of `worker`; return all its claims."""
    held = held_by(worker)
    held.update(lease_until=Now() + timedelta(seconds=LEASE_S))
    return [Claim.of(job) for job in held]


def get_cancelled(worker: str) -> list[Claim]:
    """Return the claims of `worker` on jobs whose cancellation is requested."""
    return [Claim.of(job) for job in held_by(worker).filter(cancel_requested=True)]


def held_by(worker: str) -> JobQuerySet:
    """Filter to the jobs that a worker holds, or processes whose names begin so."""
    held = Job.objects.filter(
        worker__startswith=worker, state=Job.State.RUNNING, lease_until__isnull=False
    )
    return held.defer("result")


def record_progress(claim: Claim, fraction: float, message: str) -> None:
    """Store the progress of a job."""
    fraction = min(max(fraction, 0.0), 1.0)
    if claim.step is Step.MERGE:
        fraction = 0.9 + 0.1 * fraction
    written = claimed_row(claim).update(
        fraction=fraction, message=message[:MESSAGE_MAX]
    )
    if written and claim.parent_id:
        record_parts_progress(claim.parent_id, message)


def record_parts_progress(parent_id: UUID, message: str | None = None) -> None:
    """Store the progress of a job in parts, from the progress of its parts."""
    done = Job.objects.filter(parent=parent_id).aggregate(mean=Avg("fraction"))
    changes: dict[str, Any] = {"fraction": 0.1 + 0.8 * (done["mean"] or 0)}
    if message is not None:
        changes["message"] = message[:MESSAGE_MAX]
    Job.objects.filter(pk=parent_id, state=Job.State.RUNNING).update(**changes)


def claimed_row(claim: Claim) -> JobQuerySet:
    """Filter to the job of `claim`, unless the claim has been lost."""
    return Job.objects.filter(
        pk=claim.job_id, epoch=claim.epoch, state=Job.State.RUNNING
    )


def store_result(claim: Claim, result: Any) -> None:
    """Store the result of a run before it is reported as succeeded."""
    claimed_row(claim).update(result=result)


def delete_old_jobs() -> int:
    """Delete jobs past their retention, with their files; return how many."""
    retention = timedelta(days=settings.COMPUTE_KEEP_DAYS)
    old = Job.objects.filter(parent=None, finished_at__lt=Now() - retention).order_by(
        "finished_at"
    )[:DELETE_BATCH]
    return len([job.delete() for job in old])


def delete_orphaned_files() -> int:
    """Delete some output files of failed attempts; return how many."""
    unused = Q(job__state=Job.State.SUCCEEDED) & ~Q(epoch=F("job__epoch"))
    unused |= Q(job__state__in=(Job.State.FAILED, Job.State.CANCELLED))
    batch = JobFile.objects.filter(unused, kind=JobFile.Kind.OUTPUT).values("pk")
    _, deleted = JobFile.objects.filter(pk__in=batch[:DELETE_BATCH]).delete()
    return deleted.get(JobFile._meta.label, 0)


# --- publication, where a broker distributes the jobs


def find_unpublished(limit: int) -> list[Job]:
    """Return due jobs to publish: those of anonymous clients last, and few at a time.

    A broker delivers in order, so that later jobs of people would wait for them.
    """
    due = Job.objects.claimable().filter(handed_over_at=None).defer("result")
    batch = list(due.of_people()[:limit])
    unfinished = Job.objects.unfinished().anonymous()
    # One whose message seemed lost may run all the same.
    published = unfinished.exclude(state=Job.State.QUEUED, handed_over_at=None)
    # A job in parts has been handed over, and waits for them.
    left = anonymous_max() - published.exclude(parts_left__gt=0).count()
    if left > 0 and len(batch) < limit:
        batch += due.anonymous()[:left]
    return batch


def find_undelivered(*, is_queue_empty: bool) -> JobQuerySet:
    """Filter to the jobs whose messages the broker must have lost."""
    after = LOST_AFTER if is_queue_empty else LOST_FOR_CERTAIN_AFTER
    return Job.objects.claimable().filter(handed_over_at__lt=Now() - after)


def mark_published(jobs: Iterable[Job], *, published: bool = True) -> int:
    """Mark those of `jobs` that have not been claimed meanwhile, and are not locked."""
    epochs = {job.pk: job.epoch for job in jobs}
    if not epochs:
        return 0
    with transaction.atomic(savepoint=False):
        queued = Job.objects.filter(pk__in=epochs, state=Job.State.QUEUED)
        locked = queued.select_for_update(skip_locked=True).values_list("pk", "epoch")
        same = [pk for pk, epoch in locked if epochs[pk] == epoch]
        moment = Now() if published else None
        return Job.objects.filter(pk__in=same).update(handed_over_at=moment)


@contextmanager
def publisher_lock() -> Iterator[bool]:
    """Try to take the lock of the one who publishes; yield whether it was free.

    Rows are not locked during publication, as they may be claimed and cancelled. On
    SQLite, which has one machine only, jobs are at worst published twice.
    """
    if connection.vendor != "postgresql":
        yield True
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [PUBLISHER_LOCK])
        yield cursor.fetchone()[0]


def notify_workers() -> None:
    """Wake the workers when the current transaction commits."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
