"""What a task function is given: its job, a way to report, and files."""

import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User

from compute import files
from compute.models import Job, JobFile
from compute.queue import Claim
from resilient_site.accounts.actor import Actor

REPORT_EVERY_S = 0.1

type Report = Callable[[float, str], None]


class Run:
    """One run of a job. `attempt` counts from 1."""

    def __init__(self, claim: Claim, report: Report) -> None:
        self.claim = claim
        self._report = report
        self._next_report = 0.0

    @property
    def job_id(self) -> UUID:
        return self.claim.job_id

    @property
    def attempt(self) -> int:
        return self.claim.attempt

    @property
    def processes(self) -> int:
        """How many processes there are to share the work in parts."""
        return settings.COMPUTE_PROCESSES

    @cached_property
    def job(self) -> Job:
        """The job's row, of this epoch."""
        job = Job.objects.get(pk=self.job_id)
        job.epoch = self.claim.epoch
        return job

    @cached_property
    def actor(self) -> Actor:
        if self.claim.owner_id is None:
            return Actor(None, "anonymous")
        owner = User.objects.get(pk=self.claim.owner_id)
        return Actor(owner, owner.get_username())

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far it is, 0 to 1. Cheap: what comes too fast is left out."""
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY_S
            self._report(fraction, message)

    def file(self, name: str, content_type: str) -> files.Writer:
        """Begin a file of the result: `with run.file(…) as out: out.write(b"…")`."""
        return files.create(self.job, name, content_type)

    def input(self, name: str) -> IO[bytes]:
        """Return the file that was sent as the parameter `name`, at its start."""
        file = JobFile.objects.get(job=self.job_id, kind=JobFile.Kind.INPUT, name=name)
        # Without a name: it is gone with the process, however that ends.
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's to close
        for chunk in files.read(file):
            copy.write(chunk)
        copy.seek(0)
        return copy

    def files_of_parts(self, name: str) -> list[bytes]:
        """Return the files `name` that the parts wrote, in the order of the parts."""
        parts = Job.objects.filter(parent=self.job_id).order_by("part")
        found = (part.result_files().filter(name=name).first() for part in parts)
        return [b"".join(files.read(file)) for file in found if file]

    def results_of_parts(self) -> list[Any]:
        parts = Job.objects.filter(parent=self.job_id).order_by("part")
        return list(parts.values_list("result", flat=True))
