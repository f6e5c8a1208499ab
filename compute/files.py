"""Files of jobs, kept in the database in chunks: readable wherever the job ends up."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from django.db import transaction

from compute.models import Job, JobFile, JobFileChunk

CHUNK_BYTES = 1024 * 1024


class Writer:
    """Writes one file of a job; what is under way is seen by nobody."""

    def __init__(self, file: JobFile) -> None:
        self.file = file
        self._held = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()

    def write(self, data: bytes) -> int:
        self._held += data
        while len(self._held) >= CHUNK_BYTES:
            self._append(bytes(self._held[:CHUNK_BYTES]))
            del self._held[:CHUNK_BYTES]
        return len(data)

    def flush(self) -> None:
        """Do nothing: part of what a file has to offer."""

    def close(self) -> None:
        """Write the rest, and declare the file complete."""
        with transaction.atomic():
            if self._held:
                self._append(bytes(self._held))
                self._held.clear()
            JobFile.objects.filter(pk=self.file.pk).update(
                size=self.file.size, complete=True
            )
        self.file.complete = True

    def _append(self, data: bytes) -> None:
        JobFileChunk.objects.create(file=self.file, offset=self.file.size, data=data)
        self.file.size += len(data)


def create(
    job: Job,
    name: str,
    content_type: str,
    *,
    kind: JobFile.Kind = JobFile.Kind.OUTPUT,
) -> Writer:
    """Begin a file of this attempt at `job`; an earlier one of that name goes."""
    epoch = job.epoch if kind == JobFile.Kind.OUTPUT else 0
    JobFile.objects.filter(job=job, kind=kind, epoch=epoch, name=name).delete()
    file = JobFile.objects.create(
        job=job, kind=kind, epoch=epoch, name=name, content_type=content_type
    )
    return Writer(file)


class Kept:
    """A file that grows from try to try, each time in the caller's transaction."""

    def __init__(self, job: Job, name: str, content_type: str) -> None:
        self.file, _ = JobFile.objects.get_or_create(
            job=job,
            kind=JobFile.Kind.KEPT,
            epoch=0,
            name=name,
            defaults={"content_type": content_type, "complete": True},
        )

    def append(self, data: bytes) -> int:
        """Return the size of the file with `data`."""
        JobFileChunk.objects.create(file=self.file, offset=self.file.size, data=data)
        self.file.size += len(data)
        self.file.save(update_fields=["size"])
        return self.file.size


def read(file: JobFile) -> Iterator[bytes]:
    """Yield the content of `file`, one chunk in memory at a time."""
    offset = 0
    while offset < file.size:
        chunk = JobFileChunk.objects.filter(file=file, offset=offset).first()
        if chunk is None:
            raise EOFError(f"{file} ends at {offset} of {file.size} bytes.")
        yield bytes(chunk.data)
        offset += len(chunk.data)
