"""Serializers of items and changes, made from the declarations in `items.fields`."""

from typing import Any

from drf_spectacular.utils import (
    OpenApiExample,
    extend_schema_field,
    extend_schema_serializer,
)
from rest_framework import serializers

from items import fields
from items.changes import feed
from items.field_types import IdSerializerField
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
            "request_id", "client_request_id",
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
