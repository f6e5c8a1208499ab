"""Operations on jobs: submit, cancel, retry. REST, pages and the admin call these."""

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.files.uploadedfile import UploadedFile
from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    connection,
    transaction,
)
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac

from compute import completion, files, queue
from compute.models import CONTENT_TYPE_MAX, Job, JobFile
from compute.registry import Task, get_task
from resilient_site.api.idempotency import RETENTION, KeyReused
from resilient_site.errors import (
    Conflict,
    NotAllowed,
    NotFound,
    NotSignedIn,
    Overloaded,
    TooManyRequests,
)
from resilient_site.observability import tracing
from resilient_site.observability.request_id import current_own_id
from resilient_site.resilience import deadlines
from resilient_site.resilience.transactions import atomic_with_retries

logger = logging.getLogger(__name__)

# For the cancellation of a job that nobody waits for.
CANCEL_S = 5.0
# The throughput of the queue is measured over this time.
RATE_WINDOW_S = 60
ESTIMATE_MAX_S = 600
# Unfinished jobs that anonymous clients may have together, and one address.
ANONYMOUS_MAX = 16
ANONYMOUS_MAX_PER_ADDRESS = 2
NO_ADDRESS = "unknown"  # as behind a Unix socket
# The key of an advisory lock in PostgreSQL.
ANONYMOUS_LOCK = 0x616E6F6E


class JobNotFound(NotFound):
    code = "job_not_found"
    detail = "There is no such job, or it is not yours."


class QueueFull(Overloaded):
    code = "queue_full"
    detail = "The queue of jobs is full. Please try again later."


class TooManyJobs(TooManyRequests):
    code = "too_many_jobs"
    detail = "You have reached the limit of waiting jobs per person."


class TooManyAnonymousJobs(TooManyJobs):
    detail = (
        "Your address has as many jobs under way as it may have without signing in. "
        "Please wait until one has finished."
    )


def submit(
    *,
    task: Task,
    params: Mapping[str, Any],
    owner: User | AnonymousUser | None,
    address: str | None = None,
    idempotency_key: str = "",
) -> Job:
    """Queue a job, in the caller's transaction if there is one.

    `params` are validated by the task's serializer; uploaded files among them are
    stored with the job. A key that `owner` used in the last 24 hours returns its job.
    `address` is that of an anonymous client.
    Raises NotSignedIn, NotAllowed, KeyReused, QueueFull and TooManyJobs.
    """
    user = owner or AnonymousUser()
    expect_allowed(task, user)
    uploads = {n: v for n, v in params.items() if isinstance(v, UploadedFile)}
    plain = {n: v.name if n in uploads else v for n, v in params.items()}
    fingerprint = _fingerprint(task, plain, uploads) if idempotency_key else ""
    account = user if isinstance(user, User) else None
    inputs = [
        (name, _content_type(upload), upload.chunks())
        for name, upload in uploads.items()
    ]
    return _create_once(
        task,
        as_json(plain),
        account,
        idempotency_key,
        fingerprint,
        inputs,
        "" if account else _address_digest(address),
    )


def _content_type(upload: "UploadedFile[Any]") -> str:
    """Return what the client says, if that can be stored."""
    kind = upload.content_type or ""
    is_plain = kind.isascii() and kind.isprintable()
    if is_plain and 0 < len(kind) <= CONTENT_TYPE_MAX:
        return kind
    return "application/octet-stream"


def expect_allowed(task: Task, user: User | AnonymousUser) -> None:
    """Raise NotSignedIn or NotAllowed unless `user` may run the task."""
    if not task.may_run(user):
        raise NotAllowed if user.is_authenticated else NotSignedIn


def run_again(job: Job, *, owner: User, idempotency_key: str = "") -> Job:
    """Queue a new job with the task, parameters and files of `job`."""
    task = get_task(job.task)
    expect_allowed(task, owner)
    fingerprint = hashlib.sha256(job.pk.bytes).hexdigest() if idempotency_key else ""
    inputs = [
        (file.name, file.content_type, files.read(file))
        for file in job.files.filter(kind=JobFile.Kind.INPUT)
    ]
    return _create_once(task, job.params, owner, idempotency_key, fingerprint, inputs)


def _create_once(
    task: Task,
    params: dict[str, Any],
    owner: User | None,
    key: str,
    fingerprint: str,
    inputs: Iterable[tuple[str, str, Iterable[bytes]]],
    anonymous_client: str = "",
) -> Job:
    """Create a job and wake the workers, or return the job created with this key.

    `inputs` are the name, content type and content of each uploaded file.
    """
    try:
        with transaction.atomic():
            if earlier := _get_by_key(owner, key, fingerprint):
                return earlier
            if anonymous_client:
                _lock_anonymous()
            reject_if_full(owner, anonymous_client)
            job = Job.objects.create(
                task=task.name,
                params=params,
                owner=owner,
                anonymous_client=anonymous_client,
                idempotency_key=key,
                fingerprint=fingerprint,
                request_id=current_own_id(),
                traceparent=tracing.current_traceparent(),
            )
            for name, content_type, chunks in inputs:
                kind = JobFile.Kind.INPUT
                with files.create(job, name, content_type, kind=kind) as file:
                    for chunk in chunks:
                        file.write(chunk)
            queue.notify_workers()
            return job
    except IntegrityError:
        # A concurrent request with the same key created the job.
        if earlier := _get_by_key(owner, key, fingerprint):
            return earlier
        raise


@atomic_with_retries
def cancel(job: Job) -> Job:
    """Cancel `job`: at once if it is queued, else once its process is killed.

    A part is cancelled with its whole, which cannot succeed without it. Idempotent.
    Raises Conflict if the job has finished otherwise.
    """
    # In the order of locks: the whole before its parts.
    parent_id = Job.objects.values_list("parent", flat=True).get(pk=job.pk)
    locked = Job.objects.select_for_update().get(pk=parent_id or job.pk)
    if locked.state == Job.State.CANCELLED:
        return locked
    if locked.is_finished:
        raise Conflict(f"The job has {locked.state} already.", code="already_finished")
    completion.request_cancel(locked)
    completion.cancel_parts(locked.pk)
    return Job.objects.get(pk=locked.pk)


def cancel_unawaited(job_id: UUID) -> None:
    """Cancel a job whose anonymous client has left; a failure leaves it to the pool."""
    try:
        with deadlines.within(CANCEL_S):
            cancel(Job(pk=job_id))
    except Conflict:
        pass  # it has just finished
    except (DatabaseError, InterfaceError) as error:
        logger.warning("Job %s could not be cancelled: %s", job_id, error)
    finally:
        connection.close()  # of a thread that has no other use for it


@atomic_with_retries
def retry(job: Job) -> bool:
    """Requeue a failed or cancelled job, its attempts reset; return whether it was.

    No anonymous client waits for it any more.
    """
    changed = Job.objects.filter(
        pk=job.pk, state__in=(Job.State.FAILED, Job.State.CANCELLED)
    ).update(
        state=Job.State.QUEUED,
        run_after=Now(),
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
        anonymous_client="",
    )
    if changed:
        Job.objects.filter(parent=job.pk).delete()
        queue.notify_workers()
    return bool(changed)


def get_job(job_id: UUID, user: User | AnonymousUser) -> Job:
    """Raise JobNotFound if there is none that `user` may see."""
    job = Job.objects.visible_to(user).filter(pk=job_id).first()
    if job is None:
        raise JobNotFound
    return job


def get_job_to_cancel(job_id: UUID, user: User | AnonymousUser) -> Job:
    """Raise NotAllowed for a job of others without the permission to change jobs."""
    job = get_job(job_id, user)
    if not may_cancel(job, user):
        raise NotAllowed
    return job


def may_cancel(job: Job, user: User | AnonymousUser) -> bool:
    is_own = job.owner_id is not None and job.owner_id == user.pk
    return is_own or user.has_perm("compute.change_job")


# --- limits and estimates of the queue


def reject_if_full(owner: User | None, anonymous_client: str = "") -> None:
    """Raise QueueFull or TooManyJobs if a limit is reached.

    Concurrent submissions of people do not see each other and may exceed a limit by
    their number: a lock against that would serialize all submissions.
    """
    waiting = Job.objects.waiting()
    queued = waiting.count()
    if queued >= settings.COMPUTE_MAX_QUEUED:
        raise QueueFull(
            retry_after_s=estimate_duration_s(queued + 1 - settings.COMPUTE_MAX_QUEUED)
        )
    if anonymous_client:
        _reject_if_full_of_anonymous(anonymous_client)
        return
    own = waiting.filter(owner=owner)
    if own.count() >= settings.COMPUTE_MAX_QUEUED_PER_OWNER:
        first = own.order_by("queued_at", "id").first()
        raise TooManyJobs(retry_after_s=estimate_wait_s(first) if first else 1)


def _reject_if_full_of_anonymous(client: str) -> None:
    unfinished = Job.objects.unfinished().anonymous().filter(parent=None)
    clients = list(unfinished.values_list("anonymous_client", flat=True))
    wait_s = estimate_duration_s(1)
    if client != NO_ADDRESS and clients.count(client) >= ANONYMOUS_MAX_PER_ADDRESS:
        raise TooManyAnonymousJobs(retry_after_s=wait_s)
    if len(clients) >= ANONYMOUS_MAX:
        raise QueueFull(retry_after_s=wait_s)


def _lock_anonymous() -> None:
    """Let no other anonymous client submit a job before this transaction ends."""
    if connection.vendor == "postgresql":  # SQLite has one writer anyway
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ANONYMOUS_LOCK])


def _address_digest(address: str | None) -> str:
    """Return what stands for an address: the address itself is not stored."""
    if address is None:
        return NO_ADDRESS
    return salted_hmac("compute.jobs", address, algorithm="sha256").hexdigest()[:32]


def estimate_wait_s(job: Job) -> int:
    """Estimate how long `job` will wait, from the current throughput."""
    return estimate_duration_s(count_ahead(job) + 1)


def count_ahead(job: Job) -> int:
    """Return the number of jobs ahead of `job` in the queue."""
    before = Q(queued_at__lt=job.queued_at) | Q(queued_at=job.queued_at, pk__lt=job.pk)
    waiting = Job.objects.waiting()
    return (
        (waiting if job.anonymous_client else waiting.of_people())
        .filter(before)
        .count()
    )


def estimate_duration_s(jobs: int, **filters: Any) -> int:
    """Estimate how long the pool will take to finish this number of jobs."""
    finished = Job.objects.filter(
        parent=None,
        finished_at__gt=Now() - timedelta(seconds=RATE_WINDOW_S),
        **filters,
    ).count()
    # Unknown while nothing has finished: one request a minute does no harm.
    seconds = jobs * RATE_WINDOW_S / finished if finished else RATE_WINDOW_S
    return max(1, min(math.ceil(seconds), ESTIMATE_MAX_S))


# --- parameters


def as_json(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return validated parameters as JSON-compatible values."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(params, default=str))
    return plain


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


def _get_by_key(owner: User | None, key: str, fingerprint: str) -> Job | None:
    """Return the job created with this key; expired keys are cleared."""
    if not key:
        return None
    same = Job.objects.filter(owner=owner, idempotency_key=key)
    fresh = Q(created_at__gt=Now() - RETENTION)
    same.exclude(fresh).update(idempotency_key="")
    job = same.first()
    if job and job.fingerprint != fingerprint:
        raise KeyReused
    return job
