import gzip
from typing import Any

from rest_framework import serializers

from compute.registry import TaskFailed, task
from compute.selection import (
    FilterField,
    SelectionParams,
    filtered_items,
    selected_items,
)
from compute.task_context import TaskContext
from items.imports.exporting import FORMATS, export
from items.models import Item
from resilient_site.errors import Invalid


class Params(SelectionParams):
    filter = FilterField(
        default="",
        help_text="Instead of words and a tag: the parameters of a list, such as "
        "collection=country&status=active, or the address of a list.",
    )
    format = serializers.ChoiceField(
        [(name, form.label) for name, form in FORMATS.items()], default="csv"
    )
    flat = serializers.BooleanField(
        default=False,
        help_text="Whether each attribute and label has a column of its own. Not for "
        "NDJSON.",
    )

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["flat"] and params["format"] == "ndjson":
            message = "NDJSON has no columns. Leave this out."
            raise serializers.ValidationError({"flat": [message]})
        if params["filter"] and (params["search"] or params["tag"]):
            message = "Words and tags belong into the filter, if there is one."
            raise serializers.ValidationError({"filter": [message]})
        return super().validate(params)


@task(params=Params, time_limit_s=1800)
def export_items(
    context: TaskContext,
    *,
    format: str,
    search: str,
    tag: str,
    flat: bool = False,
    filter: str = "",
) -> Any:
    """Export the catalogue, or a selection of it, to a compressed file."""
    if filter:
        items = filtered_items(filter)
    else:
        items = selected_items({"search": search, "tag": tag})
    total, rows = items.count(), 0

    def report(chunk: list[Item]) -> None:
        nonlocal rows
        rows += len(chunk)
        context.progress(rows / max(total, rows), f"{rows:,} of {total:,} items")

    pieces = export(format, items, flat=flat, on_chunk=report)
    name, content_type = f"items.{FORMATS[format].extension}", "application/gzip"
    try:
        if format == "xlsx":  # which is compressed
            content_type = FORMATS[format].content_type
            with context.file(name, content_type) as file:
                for piece in pieces:
                    file.write(piece)
        else:
            name += ".gz"
            with (
                context.file(name, content_type) as file,
                # No timestamp: the same items make the same file.
                gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed,
            ):
                packed.writelines(pieces)
    except Invalid as error:
        raise TaskFailed(error.detail) from error
    size = context.job.files.get(epoch=context.job.epoch, name=name).size
    return {"file": name, "rows": rows, "bytes": size}
