from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any, cast

from django.conf import settings
from rest_framework import serializers

from compute import files
from compute.registry import TaskFailed, may, task
from compute.task_context import Run
from items.imports import importing
from items.imports.file_parsing import Unreadable
from items.imports.importing import Rejected
from items.models import ImportRun

REJECTS = "rejects.csv"


class Params(serializers.Serializer[Any]):
    file = serializers.FileField(
        help_text="CSV or NDJSON, gzip or not, as the page Import describes it."
    )


# Many tries, since each goes on where the one before it stood.
@task(
    params=Params,
    title="Import a large file",
    time_limit_s=3600,
    retries=5,
    who=may("items.add_item", "items.change_item"),
)
def import_items(run: Run, *, file: str) -> Any:
    """Bring a file of items into the catalogue, however large it is.

    Rows go in by batches, each whole or not at all. Rows that break a rule are left
    out, and can be downloaded with their reasons. An import that is broken off goes on
    at the batch where it stood.
    """
    position = _position(run, file)
    if position.state != ImportRun.State.DONE:
        position = _proceed(run, position)
    return {
        "source": file,
        "lines": position.line,
        "created": position.created,
        "updated": position.updated,
        "unchanged": position.unchanged,
        "rejected": position.rejected,
    }


def _position(run: Run, source: str) -> ImportRun:
    fingerprint = f"job:{run.job_id}"
    found = ImportRun.objects.filter(fingerprint=fingerprint).first()
    return found or importing.begin(
        source=source, path="", actor=run.actor, fingerprint=fingerprint
    )


def _proceed(run: Run, position: ImportRun) -> ImportRun:
    with run.input("file") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)

        def tell(now: ImportRun) -> None:
            done = now.created + now.updated + now.unchanged
            share = stream.tell() / size if size else 1
            run.progress(share, f"{done:,} items, {now.rejected:,} rows left out")

        try:
            return importing.proceed(
                position,
                cast(BufferedReader, stream),
                actor=run.actor,
                rejects=lambda size: _rejects(run, size),
                max_bytes=settings.IMPORT_MAX_BYTES,
                on_batch=tell,
            )
        except Unreadable as error:
            raise TaskFailed(error.detail) from error


class KeptRejects:
    """Rows that were refused, in a file of the job: made when one is refused."""

    def __init__(self, run: Run, size: int) -> None:
        self.run, self.size = run, size

    def write(self, rejects: Rejected) -> int:
        if rejects:
            # Opened anew each time: the database may have taken back the last batch.
            file = files.Kept(self.run.job, REJECTS, "text/csv; charset=utf-8")
            self.size = file.append(importing.as_csv(rejects, header=not self.size))
        return self.size


@contextmanager
def _rejects(run: Run, size: int) -> Iterator[KeptRejects]:
    yield KeptRejects(run, size)
