from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from items import rules
from items.imports.exporting import as_json
from items.models import Item, ItemChange

ID_SCHEMA = {
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": rules.INTEGER_MAX},
        {
            "type": "string",
            "pattern": rules.ID_PATTERN,
            "minLength": 1,
            "maxLength": rules.ID_MAX,
        },
    ],
    "description": 'A whole number, or text. `7` and `"7"` are the same id.',
}


@extend_schema_field(ID_SCHEMA)
class IdField(serializers.Field):  # type: ignore[type-arg]
    def to_representation(self, value: str) -> int | str:
        return rules.public_id(value)

    def to_internal_value(self, data: Any) -> str:
        return rules.clean_id(data)


class TagField(serializers.RegexField):
    def __init__(self, **options: Any) -> None:
        super().__init__(rules.TAG_PATTERN, max_length=rules.TAG_MAX, **options)


class ItemSerializer(serializers.Serializer[Item]):
    """An item in and out. What it accepts is for `items.rules` to say."""

    id = IdField(required=False)
    name = serializers.RegexField(r"^\s*[^\s]", min_length=1, max_length=rules.NAME_MAX)
    description = serializers.CharField(
        required=False, allow_blank=True, max_length=rules.DESCRIPTION_MAX
    )
    tags = serializers.ListField(
        child=TagField(), required=False, max_length=rules.TAGS_MAX
    )
    version = serializers.IntegerField(read_only=True, min_value=1)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError(
                {"non_field_errors": ["An item must be a JSON object."]}
            )
        # Empty ids and tags in one text are for files and forms.
        if data.get("id") == "":
            raise serializers.ValidationError({"id": ["Must not be empty."]})
        if isinstance(data.get("tags"), str):
            raise serializers.ValidationError({"tags": ["Must be a list of tags."]})
        try:
            return rules.clean(data, partial=self.partial)
        except rules.Unclean as error:
            raise serializers.ValidationError(dict(error.errors)) from error

    def run_validators(self, value: Any) -> None:
        """There are none; to look for them costs a tenth of a write."""

    def to_representation(self, item: Item) -> dict[str, Any]:
        return as_json(item)


@extend_schema_serializer(many=False)
class ItemListSerializer(serializers.Serializer[Any]):
    results = ItemSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class ItemsSerializer(serializers.Serializer[Any]):
    results = ItemSerializer(many=True)


class StateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    tags = serializers.ListField(child=TagField())


class ChangeSerializer(serializers.ModelSerializer[ItemChange]):
    """One entry of the change log. Who made it is shown to signed-in clients."""

    item_id = IdField()
    before = StateSerializer(allow_null=True)
    after = StateSerializer(allow_null=True)
    actor = serializers.SerializerMethodField()

    class Meta:
        model = ItemChange
        fields = (
            "id", "item_id", "version", "action", "before", "after", "at", "actor",
            "request_id",
        )  # fmt: skip

    def get_actor(self, change: ItemChange) -> str | None:
        user = self.context["request"].user
        return change.actor_name if user.is_authenticated else None


@extend_schema_serializer(many=False)
class ChangeListSerializer(serializers.Serializer[Any]):
    results = ChangeSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
