from functools import partial
from io import BufferedReader
from typing import Any, cast

from django.conf import settings
from rest_framework import serializers

from compute import files
from compute.registry import TaskFailed, has_permissions, task
from compute.task_context import TaskContext
from items.imports import importing
from items.imports.file_parsing import Unreadable
from items.imports.importing import Rejected
from items.models import ImportRun

REJECTS = "rejects.csv"


class Params(serializers.Serializer[Any]):
    file = serializers.FileField(
        help_text="CSV or NDJSON, gzip or not, as the page Import describes it."
    )


# Many retries, as each resumes where the last one stopped.
@task(
    params=Params,
    title="Import a large file",
    time_limit_s=3600,
    retries=5,
    may_run=has_permissions("items.add_item", "items.change_item"),
)
def import_items(context: TaskContext, *, file: str) -> Any:
    """Import a file of items, however large.

    Rows are written in batches, each in one transaction. Invalid rows are skipped, and
    can be downloaded with their errors. An interrupted import resumes at its next
    batch.
    """
    position = _position(context, file)
    if position.state != ImportRun.State.DONE:
        position = _proceed(context, position)
    return {
        "source": file,
        "lines": position.line,
        "created": position.created,
        "updated": position.updated,
        "unchanged": position.unchanged,
        "rejected": position.rejected,
    }


def _position(context: TaskContext, source: str) -> ImportRun:
    fingerprint = f"job:{context.job_id}"
    found = ImportRun.objects.filter(fingerprint=fingerprint).first()
    return found or importing.begin(
        source=source, path="", actor=context.actor, fingerprint=fingerprint
    )


def _proceed(context: TaskContext, position: ImportRun) -> ImportRun:
    with context.input("file") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)

        def report(now: ImportRun) -> None:
            done = now.created + now.updated + now.unchanged
            share = stream.tell() / size if size else 1
            context.progress(share, f"{done:,} items, {now.rejected:,} rows rejected")

        try:
            return importing.proceed(
                position,
                cast(BufferedReader, stream),
                actor=context.actor,
                rejects=partial(_write_rejects, context),
                max_bytes=settings.IMPORT_MAX_BYTES,
                on_batch=report,
            )
        except Unreadable as error:
            raise TaskFailed(error.detail) from error


def _write_rejects(context: TaskContext, rejects: Rejected, size: int) -> int:
    if rejects:
        content = importing.render_rejects(rejects, header=not size)
        size = files.append(context.job, REJECTS, "text/csv; charset=utf-8", content)
    return size
