import gzip
from typing import Any

from django.http import QueryDict
from django.utils.http import urlencode
from rest_framework import serializers

from compute.registry import task
from compute.task_context import TaskContext
from compute.tasks import TagField
from items.imports.exporting import FORMATS, chunks
from items.list_query import SEARCH_MAX, ListQuery
from resilient_site.errors import Invalid


class Params(serializers.Serializer[Any]):
    format = serializers.ChoiceField(list(FORMATS), default="csv")
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
    head, encode = FORMATS[format].head, FORMATS[format].encode
    name = f"items.{format}.gz"
    with (
        context.file(name, "application/gzip") as file,
        # No timestamp: the same items make the same file.
        gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed,
    ):
        packed.write(head)
        for chunk in chunks(items):
            packed.write(encode(chunk))
            rows += len(chunk)
            context.progress(rows / max(total, rows), f"{rows:,} of {total:,} items")
    return {"file": name, "rows": rows, "bytes": file.file.size}


def _selection(*, search: str, tag: str) -> ListQuery:
    return ListQuery.parse(QueryDict(urlencode({"search": search, "tag": tag})))
