"""Files of jobs, stored in the database in chunks: every machine can read them."""

from collections.abc import Iterator
from contextlib import contextmanager

from compute.models import Job, JobFile, JobFileChunk

CHUNK_BYTES = 1024 * 1024


class Writer:
    """Writer of one file of a job; see `create`."""

    def __init__(self, file: JobFile) -> None:
        self.file = file
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            self._append(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]
        return len(data)

    def flush(self) -> None:
        """Do nothing: required of a file object."""

    def close(self) -> None:
        """Write the buffer and mark the file complete."""
        if self._buffer:
            self._append(bytes(self._buffer))
        self.file.complete = True
        self.file.save(update_fields=["size", "complete"])

    def _append(self, data: bytes) -> None:
        JobFileChunk.objects.create(file=self.file, offset=self.file.size, data=data)
        self.file.size += len(data)


@contextmanager
def create(
    job: Job,
    name: str,
    content_type: str,
    *,
    kind: JobFile.Kind = JobFile.Kind.OUTPUT,
) -> Iterator[Writer]:
    """Create a file of this attempt at `job`, replacing one of the same name.

    It is not visible until it is complete, at the end of the block.
    """
    epoch = job.epoch if kind == JobFile.Kind.OUTPUT else 0
    JobFile.objects.filter(job=job, kind=kind, epoch=epoch, name=name).delete()
    file = JobFile.objects.create(
        job=job, kind=kind, epoch=epoch, name=name, content_type=content_type
    )
    writer = Writer(file)
    yield writer
    writer.close()


def append(job: Job, name: str, content_type: str, data: bytes) -> int:
    """Append to a file that grows across attempts; return its new size.

    In the caller's transaction.
    """
    file, _ = JobFile.objects.get_or_create(
        job=job,
        kind=JobFile.Kind.KEPT,
        epoch=0,
        name=name,
        defaults={"content_type": content_type, "complete": True},
    )
    JobFileChunk.objects.create(file=file, offset=file.size, data=data)
    file.size += len(data)
    file.save(update_fields=["size"])
    return file.size


def read(file: JobFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of `file` from `start` to `end`, one chunk in memory."""
    end = file.size if end is None else end
    chunks = JobFileChunk.objects.filter(file=file).order_by("-offset")
    while start < end:
        chunk = chunks.filter(offset__lte=start).first()
        data = chunk.data[start - chunk.offset : end - chunk.offset] if chunk else b""
        if not data:
            raise EOFError(f"{file} ends at {start} of {file.size} bytes.")
        yield bytes(data)
        start += len(data)
