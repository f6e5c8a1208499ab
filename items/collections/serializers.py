"""Serializers of collections, for what is shown and for the description of REST."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from items import rules
from items.collections.editing import LICENCE_MAX, SOURCE_MAX
from items.models import Collection

EXAMPLE_INPUT = {
    "key": "bolts",
    "name": "Bolts",
    "description": "By ISO 4014",
    "schema": {
        "properties": {
            "length_mm": {"type": "integer", "minimum": 1, "x-filterable": True},
            "material": {"type": "string", "enum": ["brass", "steel"]},
        },
        "required": ["length_mm"],
    },
    "source": "https://www.iso.org/standard/63276.html",
    "licence": "CC0-1.0",
}
EXAMPLE = EXAMPLE_INPUT | {
    "version": 1,
    "created_at": "2026-11-30T12:00:00Z",
    "updated_at": "2026-11-30T12:00:00Z",
}


# `items.collections.editing` cleans the input.
@extend_schema_serializer(
    examples=[
        OpenApiExample("A collection to write", EXAMPLE_INPUT, request_only=True),
        OpenApiExample("A collection", EXAMPLE, response_only=True),
    ]
)
class CollectionSerializer(serializers.Serializer[Collection]):
    """A code list, with the JSON Schema of its items' attributes."""

    key = serializers.RegexField(rules.KEY_PATTERN, max_length=rules.KEY_MAX)
    name = serializers.CharField(max_length=rules.NAME_MAX)
    description = serializers.CharField(
        max_length=rules.DESCRIPTION_MAX, required=False, allow_blank=True
    )
    schema = serializers.DictField(source="attributes.schema", required=False)
    source = serializers.CharField(  # type: ignore[assignment]
        max_length=SOURCE_MAX, required=False, allow_blank=True
    )
    licence = serializers.CharField(
        max_length=LICENCE_MAX, required=False, allow_blank=True
    )
    version = serializers.IntegerField(read_only=True, min_value=1)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)


@extend_schema_serializer(many=False)
class ListedCollectionSerializer(CollectionSerializer):
    item_count = serializers.IntegerField(
        read_only=True, min_value=0, help_text="Counted up to 10,000."
    )
    has_more_items = serializers.BooleanField(read_only=True)


@extend_schema_serializer(many=False)
class CollectionListSerializer(serializers.Serializer[Any]):
    results = ListedCollectionSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
