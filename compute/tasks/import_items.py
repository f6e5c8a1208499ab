import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from io import BufferedReader
from typing import Any, cast

from django.conf import settings
from rest_framework import serializers

from compute import files
from compute.registry import TaskFailed, has_permissions, task
from compute.task_context import TaskContext
from items.bulk.batches import BatchEnded
from items.imports import comparing, importing
from items.imports.columns import COLUMNS_MAX, parse_columns
from items.imports.differences import difference_writer
from items.imports.formats import (
    DELIMITERS,
    DUPLICATES,
    ENCODINGS,
    MISSING,
    MODES,
    FileFormat,
    Unreadable,
)
from items.imports.recognition import recognize
from items.imports.rejects import Rejects
from items.models import Collection, ImportRun
from items.rules import KEY_MAX
from resilient_site.errors import Invalid, NotAllowed

CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
}


class Params(serializers.Serializer[Any]):
    file = serializers.FileField(
        help_text="CSV, Excel (.xlsx), a JSON array or NDJSON, gzip or not, as the "
        "page Import describes it."
    )
    collection = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=KEY_MAX,
        help_text="The key of the collection of rows that name none.",
    )
    mode = serializers.ChoiceField(
        list(MODES.items()),
        default="merge",
        help_text="Whether items of the collection that the file does not have are "
        "retired.",
    )
    missing = serializers.ChoiceField(
        list(MISSING.items()),
        default="",
        allow_blank=True,
        help_text="What happens to these instead. Deleting them needs the permission "
        "to delete items.",
    )
    encoding = serializers.ChoiceField(
        list(ENCODINGS.items()),
        default="",
        allow_blank=True,
        help_text="Of a file of text; empty: recognized.",
    )
    delimiter = serializers.ChoiceField(
        list(DELIMITERS.items()),
        default="",
        allow_blank=True,
        help_text="Between the cells of CSV; empty: recognized.",
    )
    sheet = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=100,
        help_text="Of a workbook; empty: the first.",
    )
    columns = serializers.ListField(
        child=serializers.CharField(max_length=300),
        default=list,
        max_length=COLUMNS_MAX,
        help_text="Columns with other names than the fields, such as Label=name or "
        "Länge=attributes.length; Notes= leaves one out.",
    )
    duplicates = serializers.ChoiceField(
        list(DUPLICATES.items()),
        default="reject",
        help_text="What happens to rows with the same id.",
    )
    dry_run = serializers.BooleanField(
        default=False,
        help_text="Whether nothing is changed: the result is what would differ, also "
        "as a file.",
    )

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            chosen = _chosen(params)
        except Invalid as error:
            raise serializers.ValidationError(error.errors) from error
        key = chosen.collection
        if key and not Collection.objects.filter(pk=key).exists():
            message = f"There is no collection “{key}”."
            raise serializers.ValidationError({"collection": [message]})
        return params

    def validate_columns(self, value: list[str]) -> list[str]:
        try:
            parse_columns(value)
        except Invalid as error:
            raise serializers.ValidationError(error.detail) from error
        return value


def _chosen(params: Mapping[str, Any]) -> FileFormat:
    names = {field.name for field in dataclasses.fields(FileFormat)}
    given = {name: params[name] for name in names & params.keys()}
    return FileFormat(**given | {"columns": parse_columns(given.get("columns", ()))})


# Many retries, as each resumes where the last one stopped.
@task(
    params=Params,
    title="Import a large file",
    time_limit_s=3600,
    retries=5,
    may_run=has_permissions("items.add_item", "items.change_item"),
)
def import_items(context: TaskContext, *, file: str, **params: Any) -> Any:
    """Import a file of items, however large.

    Rows are written in batches, each in one transaction. Invalid rows are skipped, and
    can be downloaded with their errors. An interrupted import resumes at its next
    batch. With `dry_run` the file is only compared with the catalogue.
    """
    chosen = _chosen(params)
    if params.get("dry_run"):
        return _compare(context, file, chosen)
    position = _position(context, file, chosen)
    if position.state == ImportRun.State.FAILED:  # the job was killed after that
        raise _failed(position)
    if position.state != ImportRun.State.DONE:
        position = _proceed(context, position)
    return {
        "source": file,
        "format": importing.format_of(position).description,
        "lines": position.line,
        "created": position.created,
        "updated": position.updated,
        "unchanged": position.unchanged,
        "rejected": position.rejected,
        "missing": position.missing,
        "retired": position.retired,
        "deleted": position.deleted,
        "missing_items": importing.describe_missing(position),
        "batch": str(position.batch_id) if position.batch_id else None,
    }


def _compare(context: TaskContext, source: str, chosen: FileFormat) -> Any:
    """Return what an import would do, and write what would differ to a file."""
    with context.input("file") as stream:
        file = cast(BufferedReader, stream)
        size = file.seek(0, 2)
        file.seek(0)

        def report(now: comparing.Preview) -> None:
            done = now.created + now.updated + now.unchanged
            share = file.tell() / size if size else 1
            context.progress(share, f"{done:,} items, {now.rejected:,} rows rejected")

        limit = settings.IMPORT_MAX_BYTES
        try:
            form = recognize(file, chosen, max_bytes=limit)
            with context.file("differences.csv", CONTENT_TYPES["csv"]) as out:
                result = comparing.preview(
                    file,
                    form,
                    max_bytes=limit,
                    seconds=math.inf,
                    on_row=difference_writer(out.write),
                    on_batch=report,
                )
        except Unreadable as error:
            raise TaskFailed(error.detail) from error
    if result.problem:
        raise TaskFailed(result.problem)
    return {
        "source": source,
        "format": form.description,
        "dry_run": True,
        "created": result.created,
        "updated": result.updated,
        "unchanged": result.unchanged,
        "rejected": result.rejected,
        "missing": result.missing,
        "missing_items": comparing.describe_missing(result, form),
    }


def _failed(run: ImportRun) -> TaskFailed:
    return TaskFailed(f"{run.error} {importing.describe_imported(run)}")


def _position(context: TaskContext, source: str, chosen: FileFormat) -> ImportRun:
    fingerprint = f"job:{context.job_id}"
    found = ImportRun.objects.filter(fingerprint=fingerprint).first()
    return found or importing.begin(
        source=source,
        path="",
        actor=context.actor,
        fingerprint=fingerprint,
        format=dataclasses.asdict(chosen),
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
        except (Unreadable, BatchEnded) as error:
            raise _failed(position) from error
        except NotAllowed as error:
            raise TaskFailed(error.detail) from error


def _write_rejects(context: TaskContext, rejects: Rejects, size: int) -> int:
    if rejects.rows:
        name, kind = f"rejects.{rejects.extension}", CONTENT_TYPES[rejects.extension]
        size = files.append(context.job, name, kind, rejects.render(header=not size))
    return size
