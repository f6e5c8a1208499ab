"""What people and programs do with jobs: REST, pages and the admin call these."""

import hashlib
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from compute import completion, files, queue
from compute.models import Job, JobFile
from compute.registry import Task, get_task
from resilient_site.api.idempotency import KEPT_FOR, KeyReused
from resilient_site.errors import (
    Conflict,
    NotAllowed,
    NotFound,
    NotSignedIn,
    Overloaded,
    TooManyRequests,
)
from resilient_site.observability import tracing
from resilient_site.observability.request_id import current_request_id
from resilient_site.resilience.transactions import atomic_with_retries

# The stretch of time whose finished jobs tell how fast the queue moves.
RATE_WINDOW_S = 60
WAIT_MAX_S = 600


class JobNotFound(NotFound):
    code = "job_not_found"
    detail = "There is no such job, or it is not yours."


class QueueFull(Overloaded):
    code = "queue_full"
    detail = "As many jobs are waiting as we take. Please try again later."


class TooManyJobs(TooManyRequests):
    code = "too_many_jobs"
    detail = "As many of your jobs are waiting as one person may have."


def submit(
    *,
    task: Task,
    params: Mapping[str, Any],
    owner: User | AnonymousUser | None,
    idempotency_key: str = "",
) -> Job:
    """Queue a job, in the caller's transaction if there is one.

    `params` are as the task's serializer validated them; files among them are kept
    with the job. A key that `owner` sent in the last 24 hours gives that job again.
    Raises NotSignedIn, NotAllowed, KeyReused, QueueFull and TooManyJobs.
    """
    user = owner or AnonymousUser()
    if not task.may_run(user):
        raise NotAllowed if user.is_authenticated else NotSignedIn
    uploads = {n: v for n, v in params.items() if isinstance(v, UploadedFile)}
    plain = {n: v.name if n in uploads else v for n, v in params.items()}
    fingerprint = _fingerprint(task, plain, uploads) if idempotency_key else ""
    account = user if isinstance(user, User) else None

    def make() -> Job:
        refuse_if_full(task, account)
        job = Job.objects.create(
            task=task.name,
            params=as_json(plain),
            owner=account,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            request_id=current_request_id(),
            traceparent=tracing.current(),
        )
        for name, upload in uploads.items():
            _keep(job, name, upload)
        return job

    return _once(account, idempotency_key, fingerprint, make)


def run_again(job: Job, *, owner: User, idempotency_key: str = "") -> Job:
    """Queue a new job with the task, parameters and files of `job`."""
    task = get_task(job.task)
    if not task.may_run(owner):
        raise NotAllowed
    fingerprint = hashlib.sha256(job.pk.bytes).hexdigest() if idempotency_key else ""

    def make() -> Job:
        refuse_if_full(task, owner)
        again = Job.objects.create(
            task=job.task,
            params=job.params,
            owner=owner,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            request_id=current_request_id(),
            traceparent=tracing.current(),
        )
        for file in job.files.filter(kind=JobFile.Kind.INPUT):
            with files.create(
                again, file.name, file.content_type, kind=JobFile.Kind.INPUT
            ) as copy:
                for chunk in files.read(file):
                    copy.write(chunk)
        return again

    return _once(owner, idempotency_key, fingerprint, make)


def _once(
    owner: User | None, key: str, fingerprint: str, make: Callable[[], Job]
) -> Job:
    """Make a job and wake the pool, or return the one that this key has made."""
    try:
        with transaction.atomic():
            if earlier := _submitted_before(owner, key):
                return _same(earlier, fingerprint)
            job = make()
            queue.notify()
            return job
    except IntegrityError:
        # The same key at the same time: the other one made the job.
        if earlier := _submitted_before(owner, key):
            return _same(earlier, fingerprint)
        raise


@atomic_with_retries
def cancel(job: Job) -> Job:
    """Cancel `job`: at once if it waits, else as soon as its process is stopped.

    Cancelling twice is once. Raises Conflict if it has ended otherwise.
    """
    locked = Job.objects.select_for_update().get(pk=job.pk)
    if locked.state == Job.State.CANCELLED:
        return locked
    if locked.is_finished:
        raise Conflict(f"The job has {locked.state} already.", code="already_finished")
    completion.request_stop(locked)
    completion.stop_parts(locked.pk)
    return Job.objects.get(pk=job.pk)


@atomic_with_retries
def retry(job: Job) -> bool:
    """Put a failed or cancelled job back into the queue, its tries counted anew."""
    changed = Job.objects.filter(
        pk=job.pk, state__in=(Job.State.FAILED, Job.State.CANCELLED)
    ).update(
        state=Job.State.QUEUED,
        run_after=None,
        finished_at=None,
        failures=0,
        attempts=0,
        fraction=0,
        message="",
        error_code="",
        error_detail="",
        cancel_requested=False,
        parts_left=None,
        handed_over_at=None,
    )
    if changed:
        Job.objects.filter(parent=job.pk).delete()
        queue.notify()
    return bool(changed)


def get_job(job_id: UUID, user: User | AnonymousUser) -> Job:
    """Raise JobNotFound if there is none that `user` may see."""
    job = Job.objects.visible_to(user).filter(pk=job_id).first()
    if job is None:
        raise JobNotFound
    return job


# --- how full the queue is


def refuse_if_full(task: Task, owner: User | None) -> None:
    """Raise QueueFull or TooManyJobs.

    Submissions at the very same moment do not see each other, so the bounds may be
    passed by as many: a lock against that would make all of them wait.
    """
    waiting = Job.objects.filter(state=Job.State.QUEUED, parent=None)
    number = waiting.count()
    if number >= settings.COMPUTE_MAX_QUEUED:
        raise QueueFull(
            retry_after_s=seconds_for(number + 1 - settings.COMPUTE_MAX_QUEUED)
        )
    if owner is None:
        same = Job.objects.unfinished().filter(task=task.name, owner=None, parent=None)
        if same.count() >= task.strangers_max:
            raise QueueFull(retry_after_s=seconds_for(1, task=task.name))
        return
    own = waiting.filter(owner=owner)
    if own.count() >= settings.COMPUTE_MAX_QUEUED_PER_OWNER:
        first = own.order_by("queued_at", "id").first()
        raise TooManyJobs(retry_after_s=seconds_until(first) if first else 1)


def seconds_until(job: Job) -> int:
    """Return how long `job` will probably wait, by how fast the queue moves now."""
    before = Q(queued_at__lt=job.queued_at) | Q(queued_at=job.queued_at, pk__lt=job.pk)
    ahead = Job.objects.filter(before, state=Job.State.QUEUED, parent=None).count()
    return seconds_for(ahead + 1)


def seconds_for(jobs: int, **which: Any) -> int:
    """Return how long the pool will probably take to finish so many jobs."""
    finished = Job.objects.filter(
        parent=None,
        finished_at__gt=Now() - timedelta(seconds=RATE_WINDOW_S),
        **which,
    ).count()
    # Nothing finished: nobody can know, and asking once a minute hurts nobody.
    seconds = jobs * RATE_WINDOW_S / finished if finished else RATE_WINDOW_S
    return max(1, min(math.ceil(seconds), WAIT_MAX_S))


# --- parameters


def as_json(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return validated parameters as JSON can hold them."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(params, default=str))
    return plain


def _keep(job: Job, name: str, upload: "UploadedFile[Any]") -> None:
    content_type = upload.content_type or "application/octet-stream"
    with files.create(job, name, content_type, kind=JobFile.Kind.INPUT) as file:
        for chunk in upload.chunks():
            file.write(chunk)


def _fingerprint(
    task: Task, params: Mapping[str, Any], uploads: "Mapping[str, UploadedFile[Any]]"
) -> str:
    digest = hashlib.sha256(
        orjson.dumps([task.name, params], option=orjson.OPT_SORT_KEYS, default=str)
    )
    for _, upload in sorted(uploads.items()):
        for chunk in upload.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def _submitted_before(owner: User | None, key: str) -> Job | None:
    """Return the job that this key made, and forget keys that have expired."""
    if not key:
        return None
    same = Job.objects.filter(owner=owner, idempotency_key=key)
    fresh = Q(created_at__gt=Now() - KEPT_FOR)
    same.exclude(fresh).update(idempotency_key="")
    return same.first()


def _same(job: Job, fingerprint: str) -> Job:
    if job.fingerprint != fingerprint:
        raise KeyReused
    return job
