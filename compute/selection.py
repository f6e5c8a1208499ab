"""Parameters by which a task selects items, as a list does: search and tag."""

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from django.utils.http import urlencode
from rest_framework import serializers

from compute.tasks import TagField
from items.list_query import SEARCH_MAX, ListQuery
from items.models import ItemQuerySet
from resilient_site.errors import Invalid


class SelectionParams(serializers.Serializer[Any]):
    search = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=SEARCH_MAX,
        help_text="Only items with these words; empty: all.",
    )
    tag = TagField()

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            selected_items(params)
        except Invalid as error:
            raise serializers.ValidationError(dict(error.errors or {})) from error
        return params


def selected_items(params: Mapping[str, Any]) -> ItemQuerySet:
    """Return the items that `search` and `tag` select; raises Invalid."""
    chosen = {name: params[name] for name in ("search", "tag")}
    return ListQuery.parse(QueryDict(urlencode(chosen))).items()
