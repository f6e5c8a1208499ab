"""Descriptions of the bulk operations for the OpenAPI schema."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from items import rules
from items.bulk.writing import ROWS_MAX
from items.field_types import ID_SCHEMA
from items.serializers import EXAMPLE, EXAMPLE_INPUT, ItemSerializer
from resilient_site.api.json_format import JSONParser
from resilient_site.api.schema import operation

BATCH = "0193b0f4-7c3e-7a51-9d55-3f1c5a2b7e10"
COUNTS = {"created": 0, "updated": 0, "unchanged": 0, "deleted": 0, "batch": BATCH}
COMMON = (
    f"1 to {ROWS_MAX:,} items in one transaction, all or none. Also at `items/bulk`, "
    "where a body that is no list is about the item of that id. What is wrong comes in "
    "one response, by the index of the item in the body: `errors` is such as "
    '`{"3": {"name": ["This field is required."]}}`. Items may refer to each other; '
    "one that is there twice is an error. The changes are one batch of the change log, "
    "of which `batch` is the id, or null if nothing was changed."
)
NAMED = (
    "Each is named by `id`, or by `code` and `collection` (“general” unless given). "
)
VERSIONED = (
    "`version` guards against the changes of others: if an item has another one, that "
    "is an error of its row, and 409 `stale_version` where there are no other errors. "
)
VERSION = {
    "version": serializers.IntegerField(
        required=False, min_value=1, help_text="As read; another one now is an error."
    )
}


def _version() -> serializers.IntegerField:
    return serializers.IntegerField(
        required=False, min_value=1, help_text="As read; another one now is an error."
    )


class ItemReplacementSerializer(ItemSerializer):
    """The whole new state of an item, or a new item."""

    def get_fields(self) -> dict[str, Any]:
        return super().get_fields() | {"version": _version()}


class ItemChangeRowSerializer(ItemReplacementSerializer):
    """What is to change of an item."""

    def get_fields(self) -> dict[str, Any]:
        found = super().get_fields()
        for field in found.values():
            field.required = False
        return found


@extend_schema_serializer(many=False)
class BulkCountsSerializer(serializers.Serializer[Any]):
    created = serializers.IntegerField(min_value=0)
    updated = serializers.IntegerField(min_value=0)
    unchanged = serializers.IntegerField(min_value=0)
    deleted = serializers.IntegerField(min_value=0)
    batch = serializers.UUIDField(allow_null=True)


@extend_schema_serializer(many=False)
class BulkResultSerializer(BulkCountsSerializer):
    """The items, in the order of the body, and what was done."""

    results = ItemSerializer(many=True)


DELETED_ROW = {
    "anyOf": [
        *ID_SCHEMA["oneOf"],
        {
            "type": "object",
            "properties": {
                "id": {"oneOf": ID_SCHEMA["oneOf"]},
                "collection": {"type": "string", "maxLength": rules.KEY_MAX},
                "code": {"type": "string", "maxLength": rules.CODE_MAX},
                "version": {"type": "integer", "minimum": 1},
            },
        },
    ]
}


# A row stands for a body of one, where that is a list of what a serializer describes.
def _examples(body: Any, counts: dict[str, Any], **item: Any) -> dict[str, Any]:
    result = {"results": [EXAMPLE | item]} if item else {}
    return {
        "examples": [
            OpenApiExample("A body", body, request_only=True),
            OpenApiExample("A response", result | COUNTS | counts, response_only=True),
        ]
    }


creation = operation(
    summary="Create many items",
    description=COMMON,
    operation_id="items_bulk_create",
    request=ItemSerializer(many=True),
    responses={201: BulkResultSerializer},
    **_examples(EXAMPLE_INPUT, {"created": 1}, version=1),
)
replacing = operation(
    summary="Create or replace many items",
    description=(
        f"{NAMED}One that is there gets the state that its row has, as by PUT of one "
        "item: what a row leaves out becomes empty, but collection and code stay. One "
        f"that is not there is created. {VERSIONED}{COMMON}"
    ),
    operation_id="items_bulk_update",
    request=ItemReplacementSerializer(many=True),
    responses=BulkResultSerializer,
    **_examples(EXAMPLE_INPUT | {"version": 1}, {"updated": 1}, version=2),
)
changing = operation(
    summary="Change many items",
    description=(
        f"{NAMED}What a row leaves out stays as it is; as "
        "`application/merge-patch+json`, which each row is then, that is true of "
        "single labels and attributes too, and `null` removes a member. "
        f"{VERSIONED}{COMMON}"
    ),
    operation_id="items_bulk_partial_update",
    # Not as a merge patch too: generated clients take one kind of list.
    request={JSONParser.media_type: ItemChangeRowSerializer(many=True)},
    responses=BulkResultSerializer,
    **_examples(
        {"id": "bolt.m8", "tags": ["brass"], "version": 1},
        {"updated": 1},
        tags=["brass"],
        version=2,
    ),
)
deletion = operation(
    summary="Delete many items",
    description=(
        "Each is an id, or an object that names an item by `id`, or by `code` and "
        f"`collection`. {VERSIONED}What others than these refer to is 409 "
        f"`item_referenced`. {COMMON}"
    ),
    operation_id="items_bulk_destroy",
    request={JSONParser.media_type: {"type": "array", "items": DELETED_ROW}},
    responses={200: BulkCountsSerializer},
    **_examples(["bolt.m8", {"id": "bolt.m6", "version": 3}], {"deleted": 2}),
)
