"""Files of jobs, stored where every machine can read them (resilient_site/storage)."""

from collections.abc import Iterator
from contextlib import contextmanager

from compute.models import Job, JobFile
from resilient_site.resilience import chunks
from resilient_site.resilience.chunks import CHUNK_BYTES
from resilient_site.storage.files import Writer, open_file, read, writing

__all__ = ["CHUNK_BYTES", "Writer", "append", "create", "open_file", "read"]


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
    Raises FilesUnavailable.
    """
    epoch = job.epoch if kind == JobFile.Kind.OUTPUT else 0
    JobFile.objects.filter(job=job, kind=kind, epoch=epoch, name=name).delete()
    file = JobFile.objects.create(
        job=job, kind=kind, epoch=epoch, name=name, content_type=content_type
    )
    with writing(file) as writer:
        yield writer


def append(
    job: Job, name: str, content_type: str, data: bytes, *, head: bytes = b""
) -> int:
    """Append to a file that grows across attempts; return its new size.

    A new one begins with `head`. In the caller's transaction, so in the database: no
    other storage has a part in it. Parts of a job may append to the same one.
    """
    file, is_new = JobFile.objects.select_for_update().get_or_create(
        job=job,
        kind=JobFile.Kind.KEPT,
        epoch=0,
        name=name,
        defaults={"content_type": content_type, "complete": True},
    )
    return chunks.append(file, head + data if is_new else data)
