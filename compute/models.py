from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce, Now
from django.urls import reverse
from django.utils import timezone
from uuid_utils.compat import uuid7

from compute.outcomes import ErrorCode
from compute.registry import Task, tasks

MESSAGE_MAX = 200
ERROR_MAX = 2_000
CONTENT_TYPE_MAX = 100
# A job that is due later than this is no part of the queue; a retry is due sooner.
DEFERRED = timedelta(minutes=2)


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user: User | AnonymousUser) -> JobQuerySet:
        """Filter to the jobs a user may see: their own, or all with a permission."""
        jobs = self.filter(parent=None)
        if user.has_perm("compute.view_job"):
            return jobs
        return jobs.filter(owner=user) if user.is_authenticated else jobs.none()

    def unfinished(self) -> JobQuerySet:
        return self.filter(state__in=Job.UNFINISHED)

    def of_people(self) -> JobQuerySet:
        return self.filter(anonymous_client="")

    def anonymous(self) -> JobQuerySet:
        return self.exclude(anonymous_client="")

    def waiting(self) -> JobQuerySet:
        """Filter to the jobs in the queue, without parts and those of a later day.

        What a task has deferred would leave no room for others. Retries stay.
        """
        queued = self.filter(state=Job.State.QUEUED, parent=None)
        return queued.exclude(run_after__gt=Now() + DEFERRED)

    def claimable(self) -> JobQuerySet:
        """Filter to the jobs that are due, in queue order."""
        due = Q(run_after=None) | Q(run_after__lte=Now())
        return self.filter(due, state=Job.State.QUEUED).order_by("queued_at", "id")

    def overdue(self, by: timedelta) -> JobQuerySet:
        """Filter to the queued jobs that have been due for longer than `by`."""
        due_at = Coalesce("run_after", "queued_at")
        return self.alias(due_at=due_at).filter(
            state=Job.State.QUEUED, due_at__lt=Now() - by
        )

    def abandoned(self) -> JobQuerySet:
        """Filter to the running jobs whose lease has expired."""
        return self.filter(state=Job.State.RUNNING, lease_until__lt=Now())


class Job(models.Model):
    """A requested computation: this row is the only record of its state.

    A worker holds a job by a lease, which it renews, and by the job's epoch, which
    each claim increments: a worker with an older epoch has lost the job and can write
    nothing to it. A job in parts is `running` without a lease while `parts_left` is
    above zero.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    UNFINISHED = (State.QUEUED, State.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task = models.CharField(max_length=100)
    params = models.JSONField(default=dict)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        db_index=False,
    )
    # Digest of the address of the anonymous client that waits for the job; "": it is a
    # person's. The database has a default for versions that do not write the column.
    anonymous_client = models.CharField(
        max_length=32, blank=True, default="", db_default=""
    )
    request_id = models.CharField(max_length=64, blank=True)
    # Trace context of the request; "" without tracing. The database has a default for
    # versions of the site that do not write the column.
    traceparent = models.CharField(max_length=55, blank=True, default="", db_default="")
    idempotency_key = models.CharField(max_length=255, blank=True)
    fingerprint = models.CharField(max_length=64, blank=True)

    state = models.CharField(max_length=9, choices=State, default=State.QUEUED)
    fraction = models.FloatField(default=0)
    message = models.CharField(max_length=MESSAGE_MAX, blank=True)
    result = models.JSONField(null=True)
    # How far a task has come, for its next attempt: see `TaskContext.save_checkpoint`.
    checkpoint = models.JSONField(null=True, editable=False)
    error_code = models.CharField(max_length=50, blank=True)
    error_detail = models.CharField(max_length=ERROR_MAX, blank=True)

    created_at = models.DateTimeField(default=timezone.now)
    # The position in the queue, which parts and retries inherit from the request.
    queued_at = models.DateTimeField(default=timezone.now)
    # When a job that is requeued is due, by the database's clock; null: at once.
    run_after = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    attempts = models.PositiveIntegerField(default=0)
    # Attempts that failed through the job itself, not through a lost worker.
    failures = models.PositiveIntegerField(default=0)
    epoch = models.PositiveIntegerField(default=0)
    worker = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True)
    cancel_requested = models.BooleanField(default=False)
    # When the job was published to the broker; null: it is to be published.
    handed_over_at = models.DateTimeField(null=True)

    parent = models.ForeignKey(
        "self", on_delete=models.CASCADE, null=True, related_name="parts"
    )
    part = models.PositiveIntegerField(null=True)
    parts_left = models.PositiveIntegerField(null=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="job_once_per_key",
            ),
            models.CheckConstraint(
                condition=Q(finished_at__isnull=True, state__in=["queued", "running"])
                | Q(
                    finished_at__isnull=False,
                    state__in=["succeeded", "failed", "cancelled"],
                ),
                name="job_finished_has_time",
            ),
        ]
        indexes = [
            models.Index(
                fields=["queued_at", "id"],
                condition=Q(state="queued"),
                name="job_queue",
            ),
            models.Index(
                fields=["lease_until"], condition=Q(state="running"), name="job_leases"
            ),
            models.Index(
                fields=["anonymous_client"],
                condition=Q(state__in=["queued", "running"]) & ~Q(anonymous_client=""),
                name="job_anonymous",
            ),
            models.Index(fields=["owner", "id"], name="job_of_owner"),
            models.Index(fields=["finished_at"], name="job_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.pk} ({self.state})"

    def get_absolute_url(self) -> str:
        return reverse("compute:detail", args=[self.pk])

    @property
    def spec(self) -> Task | None:
        """The task; None if it is not registered in this version of the site."""
        return tasks.get(self.task)

    @property
    def title(self) -> str:
        return self.spec.title if self.spec else self.task

    @property
    def is_finished(self) -> bool:
        return self.state not in self.UNFINISHED

    @property
    def percent(self) -> int:
        return int(self.fraction * 100)

    @property
    def queue_time(self) -> timedelta | None:
        """The time in the queue before the first attempt."""
        return self.started_at - self.created_at if self.started_at else None

    @property
    def interruptions(self) -> int:
        """The number of attempts that ended with their worker."""
        is_last_other = self.error_code == ErrorCode.PART_FAILED or self.state in (
            self.State.RUNNING,
            self.State.SUCCEEDED,
            self.State.CANCELLED,
        )
        return max(self.attempts - self.failures - is_last_other, 0)

    @property
    def run_time(self) -> timedelta | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    @property
    def error(self) -> dict[str, str] | None:
        if not self.error_code:
            return None
        return {"code": self.error_code, "detail": self.error_detail}

    def progress(self) -> dict[str, Any]:
        return {"fraction": self.fraction, "message": self.message}

    def result_files(self) -> models.QuerySet[JobFile]:
        """Return the files of the job's result."""
        if self.state != self.State.SUCCEEDED:
            return self.files.none()
        return self.files.filter(
            Q(kind=JobFile.Kind.OUTPUT, epoch=self.epoch) | Q(kind=JobFile.Kind.KEPT),
            complete=True,
        ).order_by("name")


class JobFile(models.Model):
    """A file of a job, stored where every machine can read it.

    Output of an interrupted attempt is identified by its epoch.
    """

    class Kind(models.TextChoices):
        INPUT = "input"
        OUTPUT = "output"
        KEPT = "kept"  # across attempts

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.ForeignKey(
        Job, on_delete=models.CASCADE, related_name="files", db_index=False
    )
    kind = models.CharField(max_length=6, choices=Kind)
    epoch = models.PositiveIntegerField(default=0)
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=CONTENT_TYPE_MAX)
    size = models.BigIntegerField(default=0)
    complete = models.BooleanField(default=False)
    # Its name in the storage of files; "": the content is in the database.
    location = models.CharField(max_length=200, blank=True, default="", db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["job", "kind", "epoch", "name"], name="jobfile_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.job_id}"


class JobFileChunk(models.Model):
    file = models.ForeignKey(
        JobFile, on_delete=models.CASCADE, related_name="chunks", db_index=False
    )
    offset = models.BigIntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["file", "offset"], name="jobfilechunk_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.file_id} from {self.offset}"
