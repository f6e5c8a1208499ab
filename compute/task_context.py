"""Task context: the job of a task function, its progress reports and its files."""

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User

from compute import files
from compute.models import Job, JobFile
from compute.queue import Claim
from resilient_site.accounts.actor import Actor

# The supervisor stores what it has got twice a second.
REPORT_INTERVAL_S = 0.25

type ProgressCallback = Callable[[float, str], None]


class ClaimLost(Exception):
    """The lease of this run has expired: the job is claimed anew, or has ended."""


class TaskContext:
    """One run of a job."""

    def __init__(self, claim: Claim, on_progress: ProgressCallback) -> None:
        self.claim = claim
        self._on_progress = on_progress
        self._next_report_at = 0.0

    @property
    def job_id(self) -> UUID:
        return self.claim.job_id

    @property
    def processes(self) -> int:
        """Number of processes among which the parts of a job are divided."""
        return settings.COMPUTE_PROCESSES

    @cached_property
    def job(self) -> Job:
        """The job's row, with the epoch of this run."""
        job = Job.objects.get(pk=self.job_id)
        job.epoch = self.claim.epoch
        return job

    @cached_property
    def whole_job(self) -> Job:
        """The job itself, or the one of which it is a part."""
        return self.job.parent or self.job

    @cached_property
    def actor(self) -> Actor:
        if self.claim.owner_id is None:
            return Actor(None, "anonymous")
        owner = User.objects.get(pk=self.claim.owner_id)
        return Actor(owner, owner.get_username())

    def progress(self, fraction: float, message: str = "") -> None:
        """Report the progress, 0 to 1. Frequent calls are cheap: most are dropped."""
        now = time.monotonic()
        if now >= self._next_report_at:
            self._next_report_at = now + REPORT_INTERVAL_S
            self._on_progress(fraction, message)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return what the last attempt has saved; None before the first time."""
        found = Job.objects.values_list("checkpoint", flat=True)
        checkpoint: dict[str, Any] | None = found.get(pk=self.job_id)
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how far the job is, in the transaction of the work itself, as its last.

        Raises ClaimLost if another worker has the job by now: the work is rolled back.
        """
        running = Job.objects.filter(pk=self.job_id, epoch=self.claim.epoch)
        if not running.filter(state=Job.State.RUNNING).update(checkpoint=checkpoint):
            raise ClaimLost(f"Another worker has the job {self.job_id}.")

    def file(
        self, name: str, content_type: str
    ) -> AbstractContextManager[files.Writer]:
        """Create a result file: `with context.file(…) as out: out.write(b"…")`."""
        return files.create(self.job, name, content_type)

    def input(self, name: str) -> IO[bytes]:
        """Return a copy of the file uploaded as the parameter `name`."""
        file = JobFile.objects.get(job=self.job_id, kind=JobFile.Kind.INPUT, name=name)
        # Unnamed: it is removed with the process, even one that is killed.
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        for chunk in files.read(file):
            copy.write(chunk)
        copy.seek(0)
        return copy

    def part_files(self, name: str) -> list[bytes]:
        """Return the files `name` written by the parts, in the order of the parts.

        Raises JobFile.DoesNotExist if a part has none: another release may have run it.
        """
        parts = Job.objects.filter(parent=self.job_id).order_by("part")
        found = (part.result_files().get(name=name) for part in parts)
        return [b"".join(files.read(file)) for file in found]

    def part_results(self) -> list[Any]:
        parts = Job.objects.filter(parent=self.job_id).order_by("part")
        return list(parts.values_list("result", flat=True))
