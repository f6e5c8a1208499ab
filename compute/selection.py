"""Parameters by which a task selects items, as a list does."""

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from django.utils.http import urlencode
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from compute.tasks import TagField
from items.list_query import PARAMETERS, SEARCH_MAX, ListQuery
from items.models import ItemQuerySet
from resilient_site.api.unknown_names import find_unknown
from resilient_site.errors import Invalid

FILTER_MAX = 8_000
# The parameters of a list that say which items are in it.
SELECTING = [name for name in PARAMETERS if name not in ("ordering", "cursor")]


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


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string", "maxLength": FILTER_MAX},
            {"type": "object", "additionalProperties": {}},
        ]
    }
)
class FilterField(serializers.Field[Any, Any, Any, Any]):
    """The parameters of a list of items: its query string, or an object of them."""

    def to_internal_value(self, data: Any) -> str:
        query = _as_query(data)
        query.pop("ordering", None)  # makes no difference to which items they are
        for name in list(query):
            if not any(query.getlist(name)):
                del query[name]
        if unknown := find_unknown(query, SELECTING):
            raise serializers.ValidationError(unknown)
        try:
            ListQuery.parse(query)
        except Invalid as error:
            raise serializers.ValidationError(dict(error.errors or {})) from error
        return query.urlencode()

    def to_representation(self, value: str) -> str:
        return value


def _as_query(data: Any) -> QueryDict:
    if isinstance(data, str):
        text = data.strip()
        if text.startswith(("http://", "https://", "/", "?")):  # an address
            text = text.partition("?")[2]
        if len(text) > FILTER_MAX:
            raise serializers.ValidationError(f"At most {FILTER_MAX:,} characters.")
        return QueryDict(text, mutable=True)
    if not isinstance(data, Mapping):
        raise serializers.ValidationError("Must be a query string, or an object.")
    query = QueryDict(mutable=True)
    for name, value in data.items():
        values = value if isinstance(value, list) else [value]
        if any(not isinstance(one, str | int | float) for one in values):
            message = "Must be a text, a number, true or false, or a list of these."
            raise serializers.ValidationError({name: [message]})
        query.setlist(name, [_as_text(one) for one in values])
    return query


def _as_text(value: str | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def filtered_items(filter: str) -> ItemQuerySet:
    """Return the items that a query string selects; raises Invalid."""
    return ListQuery.parse(QueryDict(filter)).items()
