from contextlib import ExitStack
from functools import cache
from typing import Any

import orjson
from rest_framework import serializers

from compute.files import Writer
from compute.registry import TaskFailed, has_permissions, task
from compute.task_context import TaskContext
from items import search_columns
from items.collections import editing, indexes
from items.collections.schema import clean_schema
from items.integrity import ItemErrors
from items.models import Item
from resilient_site.errors import Conflict, Invalid, NotFound, SiteError

# Jobs wait for longer than requests for what others have begun.
PATIENCE_S = 120.0
BROKEN_FILE, NDJSON = "broken.ndjson", "application/x-ndjson"


class SchemaField(serializers.JSONField):
    """A JSON Schema, which forms write as text."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            given = orjson.loads(str(data)) if isinstance(data, str) else data
            return clean_schema(given)
        except ValueError as error:
            raise serializers.ValidationError(f"Must be JSON: {error}.") from error
        except Invalid as error:
            raise serializers.ValidationError(_lines(error)) from error


class Params(serializers.Serializer[Any]):
    collection = serializers.CharField(
        max_length=50, help_text="The key of the collection."
    )
    schema = SchemaField(help_text="The JSON Schema of the attributes of its items.")
    dry_run = serializers.BooleanField(
        default=False, help_text="Only find the items that do not conform to it."
    )

    def validate_collection(self, value: str) -> str:
        try:
            return editing.get_collection(value).key
        except NotFound as error:
            raise serializers.ValidationError(error.detail) from error


@task(
    params=Params,
    title="Change the schema of a collection",
    time_limit_s=3600,
    may_run=has_permissions("items.change_collection"),
)
def change_schema(
    context: TaskContext, *, collection: str, schema: dict[str, Any], dry_run: bool
) -> Any:
    """Change the attributes that the items of a collection have.

    All items are looked at, and the schema is changed if all conform to it. If not,
    nothing is changed: those that do not are in a file, with what is wrong. The search
    texts are made anew.
    """
    total = Item.objects.filter(collection=collection).count()
    looked_at = renewed = broken = 0
    with ExitStack() as stack:

        def report(items: int) -> None:
            nonlocal looked_at
            looked_at += items
            share = min(1.0, looked_at / max(1, total)) / 2
            context.progress(share, f"{looked_at:,} of {total:,} items looked at")

        def report_renewed(items: int) -> None:
            nonlocal renewed
            renewed += items
            share = 0.5 + min(1.0, renewed / max(1, total)) / 2
            context.progress(share, f"{renewed:,} of {total:,} search texts made anew")

        @cache
        def file() -> Writer:
            return stack.enter_context(context.file(BROKEN_FILE, NDJSON))

        def record(item_id: str, errors: ItemErrors) -> None:
            file().write(orjson.dumps({"id": item_id, "errors": errors}) + b"\n")

        try:
            if dry_run:
                editing.expect_conformity(collection, schema, report, record)
            else:
                editing.change_collection(
                    collection, {"schema": schema},
                    items_max=None, patience_s=PATIENCE_S,
                    on_chunk=report, on_broken=record,
                )  # fmt: skip
                # Also where the run before was interrupted after the change.
                indexes.synchronize()
                search_columns.renew_collection(collection, report_renewed)
        except editing.SchemaBreaksItems as error:
            broken = error.members["count"]
        except (Conflict, Invalid, NotFound) as error:
            raise TaskFailed(_text(error)) from error
    return {
        "collection": collection,
        "items": looked_at,
        "broken": broken,
        "is_changed": not (dry_run or broken),
    }


def _text(error: SiteError) -> str:
    """Return the error as a job shows it: with what is wrong with the schema."""
    return " ".join([error.detail, *_lines(error)])


def _lines(error: SiteError) -> list[str]:
    found = (error.errors or {}).get("schema", {})
    return [f"{place}: {' '.join(texts)}" for place, texts in found.items()]
