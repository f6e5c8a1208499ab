import gzip
from typing import Any

from django.http import QueryDict
from django.utils.http import urlencode
from rest_framework import serializers

from compute.registry import TaskFailed, task
from compute.task_context import TaskContext
from compute.tasks import TagField
from items.imports.exporting import FORMATS, export
from items.list_query import SEARCH_MAX, ListQuery
from items.models import Item
from resilient_site.errors import Invalid


class Params(serializers.Serializer[Any]):
    format = serializers.ChoiceField(
        [(name, form.label) for name, form in FORMATS.items()], default="csv"
    )
    search = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=SEARCH_MAX,
        help_text="Only items with these words; empty: all.",
    )
    tag = TagField()

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            _selection(search=params["search"], tag=params["tag"])
        except Invalid as error:
            raise serializers.ValidationError(dict(error.errors or {})) from error
        return params


@task(params=Params, time_limit_s=1800)
def export_items(context: TaskContext, *, format: str, search: str, tag: str) -> Any:
    """Export the catalogue, or a selection of it, to a compressed file."""
    items = _selection(search=search, tag=tag).items()
    total, rows = items.count(), 0

    def report(chunk: list[Item]) -> None:
        nonlocal rows
        rows += len(chunk)
        context.progress(rows / max(total, rows), f"{rows:,} of {total:,} items")

    pieces = export(format, items, on_chunk=report)
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
    return {"file": name, "rows": rows, "bytes": file.file.size}


def _selection(*, search: str, tag: str) -> ListQuery:
    return ListQuery.parse(QueryDict(urlencode({"search": search, "tag": tag})))
