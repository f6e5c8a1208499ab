"""Serializers of items and changes, made from the declarations in `items.fields`."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.utils import (
    OpenApiExample,
    extend_schema_field,
    extend_schema_serializer,
)
from rest_framework import serializers

from items import fields, past, representation
from items.changes import feed
from items.field_types import ID_SCHEMA, IdSerializerField, LinkSerializer
from items.integrity import POINTERS
from items.models import Item, ItemChange
from items.relations import References

EXAMPLE_INPUT = {
    "id": "bolt.m8",
    "name": "Hex bolt",
    "description": "M8, 40 mm",
    "tags": ["metal"],
}
EXAMPLE = EXAMPLE_INPUT | {
    "version": 1,
    "created_at": "2026-11-30T12:00:00Z",
    "updated_at": "2026-11-30T12:00:00Z",
}


@extend_schema_field({"type": ["string", "integer", "boolean"]})
class ValueField(serializers.Field):  # type: ignore[type-arg]
    """A value of any type, as it is."""

    def to_representation(self, value: Any) -> Any:
        return value


# `items.fields` cleans the input.
@extend_schema_serializer(
    examples=[
        OpenApiExample("An item to write", EXAMPLE_INPUT, request_only=True),
        OpenApiExample("An item", EXAMPLE, response_only=True),
    ]
)
class ItemSerializer(serializers.Serializer[Item]):
    """An item of the catalogue."""

    version = serializers.IntegerField(read_only=True, min_value=1)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    def get_fields(self) -> dict[str, Any]:
        declared = {field.name: field.serializer_field() for field in fields.FIELDS}
        return declared | super().get_fields()

    def to_representation(self, item: Item) -> dict[str, Any]:
        return item.as_json()


class ListedItemSerializer(ItemSerializer):
    """An item of a list, which may say what a search has found of it."""

    absent_from_some = {"highlight"}

    highlight = serializers.DictField(
        child=serializers.ListField(
            child=serializers.ListField(
                child=serializers.IntegerField(min_value=0), min_length=2, max_length=2
            )
        ),
        required=False,
        help_text=(
            "With `highlight`: where each begins and ends, in Unicode code points, by "
            "the path of the text, such as `name`, `labels.de` or `aliases.0`."
        ),
    )


@extend_schema_serializer(many=False)
class ItemListSerializer(serializers.Serializer[Any]):
    absent_from_some = {"total", "suggestions"}

    results = ListedItemSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    total = serializers.IntegerField(
        required=False, min_value=0, help_text="With `count`."
    )
    suggestions = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="With a `search` that finds nothing: the closest names.",
    )


class CountedSerializer(serializers.Serializer[Any]):
    value = ValueField()
    count = serializers.IntegerField(source="number", min_value=1)


class FacetSerializer(serializers.Serializer[Any]):
    values = CountedSerializer(many=True)
    has_more = serializers.BooleanField(help_text="Whether there are other values.")


class FacetsSerializer(serializers.Serializer[Any]):
    """Counts of values, the most frequent first, by the parameter of that filter."""

    counted = serializers.IntegerField(min_value=0, help_text="How many items.")
    is_complete = serializers.BooleanField(
        help_text="Whether these are all items that the parameters select."
    )
    facets = serializers.DictField(child=FacetSerializer())


class ItemsSerializer(serializers.Serializer[Any]):
    results = ItemSerializer(many=True)


@extend_schema_field(
    {
        "oneOf": [
            *ID_SCHEMA["oneOf"],
            {
                "type": "object",
                "properties": {"id": {"oneOf": ID_SCHEMA["oneOf"]}}
                | {field.name: {"type": "string"} for field in fields.SUMMARY_FIELDS},
                "required": ["id", *(field.name for field in fields.SUMMARY_FIELDS)],
            },
        ],
        "description": "The id of the item, or with `expand` what identifies it.",
    }
)
class ExpandableSerializerField(IdSerializerField):
    pass


class ExpandableLinkSerializer(LinkSerializer):
    target = ExpandableSerializerField()


class ItemViewSerializer(ListedItemSerializer):
    """What is shown of an item with `fields` or `expand`."""

    absent_from_some = {*representation.NAMES, "highlight"} - {"id"}

    def get_fields(self) -> dict[str, Any]:
        pointers = {
            name: ExpandableSerializerField(required=False, allow_null=True)
            for name in POINTERS
        }
        links = {"links": ExpandableLinkSerializer(many=True, required=False)}
        return super().get_fields() | pointers | links


class ShownItemSerializer(serializers.Serializer[Any]):
    """An item, whole unless the query has `fields` or `expand`."""

    whole: type[ItemSerializer] = ItemSerializer


class ShownListedItemSerializer(ShownItemSerializer):
    whole = ListedItemSerializer


class ShownItemExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = ShownItemSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        kinds = (self.target.whole, ItemViewSerializer)
        resolved = [auto_schema.resolve_serializer(kind, direction) for kind in kinds]
        return {"anyOf": [component.ref for component in resolved]}


@extend_schema_serializer(many=False)
class ShownItemListSerializer(ItemListSerializer):
    results = ShownListedItemSerializer(many=True)  # type: ignore[assignment]


class PastItemSerializer(serializers.Serializer[Any]):
    """The item that a change made."""

    def to_representation(self, change: ItemChange) -> dict[str, Any]:
        return past.as_json(change)


class SummarySerializer(serializers.Serializer[Any]):
    """What is shown of an item that another one refers to."""

    def get_fields(self) -> dict[str, Any]:
        shown = (fields.ID, *fields.SUMMARY_FIELDS)
        declared = {field.name: field.serializer_field() for field in shown}
        return declared | super().get_fields()

    def to_representation(self, item: Item) -> dict[str, Any]:
        return item.summary()


class ReferenceSerializer(SummarySerializer):
    """An item that refers to another one, and by which fields."""

    def get_fields(self) -> dict[str, Any]:
        names = serializers.ListField(child=serializers.CharField())
        return super().get_fields() | {"fields": names}

    def to_representation(self, item: Item) -> dict[str, Any]:
        references: References = self.context["references"]
        return item.summary() | {"fields": references.fields(item)}


@extend_schema_serializer(many=False)
class ReferenceListSerializer(serializers.Serializer[Any]):
    results = ReferenceSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class StateSerializer(serializers.Serializer[Any]):
    def get_fields(self) -> dict[str, Any]:
        return {
            field.name: field.serializer_field(required=True)
            for field in fields.STATE_FIELDS
        }


class ChangeSerializer(serializers.ModelSerializer[ItemChange]):
    """One entry of the change log. Its author is shown to authenticated clients."""

    item_id = IdSerializerField()
    before = StateSerializer(allow_null=True)
    after = StateSerializer(allow_null=True)
    actor = serializers.SerializerMethodField()

    class Meta:
        model = ItemChange
        fields = (
            "id", "item_id", "version", "action", "before", "after", "at", "actor",
            "request_id", "client_request_id", "batch",
        )  # fmt: skip

    def to_representation(self, change: ItemChange) -> dict[str, Any]:
        shown = feed.as_json(change) | {"actor": self.get_actor(change)}
        return {name: shown[name] for name in self.Meta.fields}

    def get_actor(self, change: ItemChange) -> str | None:
        user = self.context["request"].user
        return change.actor_name if user.is_authenticated else None


@extend_schema_serializer(many=False)
class ChangeListSerializer(serializers.Serializer[Any]):
    results = ChangeSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


@extend_schema_serializer(many=False)
class ChangeFeedSerializer(ChangeListSerializer):
    epoch = serializers.CharField(help_text="Another one: start over (see `since`).")
