"""Filters of lists beside those that single fields declare (see `items.fields`).

Each parameter becomes a condition of the query. Attributes are typed by the schema of
the one collection that the query names, and those alone are filtered by that have an
index: `x-filterable`, `x-unique` and `x-reference`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple

from django.db.models import Q
from django.http import QueryDict
from drf_spectacular.types import OpenApiTypes

from items import relations, rules
from items.collections.attributes import AttributeValue
from items.models import Collection, ItemQuerySet

type Condition = Callable[[ItemQuerySet], ItemQuerySet]

ATTRIBUTE = "attributes."
# As descriptions have it: any name may follow the prefix.
ANY_ATTRIBUTE = f"{ATTRIBUTE}NAME"
RANGES = ("gt", "gte", "lt", "lte")
LOOKUPS = (*RANGES, "in", "isnull")
# Values of one parameter.
VALUES_MAX = 100
_is_number = re.compile(
    r"-?[0-9]{1,17}(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,3})?", re.ASCII
).fullmatch
BOOLEANS = {"true": True, "false": False}


class Filter(NamedTuple):
    condition: Callable[[Sequence[str]], Q]
    type: OpenApiTypes
    help: str
    is_many: bool = False


def _valid_on(values: Sequence[str]) -> Q:
    day = rules.clean_date(values[-1])
    begun = Q(valid_from__isnull=True) | Q(valid_from__lte=day)
    not_ended = Q(valid_to__gte=day)
    not_ended |= Q(valid_to__isnull=True, status__in=rules.IN_USE)
    return begun & not_ended & ~Q(status=rules.DRAFT)


def _updated_since(values: Sequence[str]) -> Q:
    return Q(updated_at__gte=rules.clean_time(values[-1]))


def _ancestor(values: Sequence[str]) -> Q:
    return relations.is_below([rules.clean_id(value) for value in values])


FILTERS = {
    "valid_on": Filter(
        _valid_on,
        OpenApiTypes.DATE,
        "A day: the items are valid then; no drafts, and of retired items those that "
        "ended later.",
    ),
    "updated_since": Filter(
        _updated_since,
        OpenApiTypes.DATETIME,
        "A time (UTC without an offset): the items were changed then or later.",
    ),
    "ancestor": Filter(
        _ancestor,
        OpenApiTypes.STR,
        "Ids of items; the items are below one of them, at any level.",
        is_many=True,
    ),
}


def values_of(query: QueryDict, name: str) -> list[str]:
    """Return the values of a parameter, without those that are empty or spaces."""
    return [value for value in query.getlist(name) if value.strip()]


def parse(
    query: QueryDict, collections: Sequence[str]
) -> tuple[tuple[Condition, ...], dict[str, list[str]]]:
    """Return the conditions, and what is wrong by parameter."""
    conditions: list[Condition] = []
    errors: dict[str, list[str]] = {}
    for name, declared in FILTERS.items():
        if not (values := values_of(query, name)):
            continue
        try:
            conditions.append(partial(_filtered, declared.condition(_bounded(values))))
        except ValueError as error:
            errors[name] = [str(error)]
    named = [name for name in query if name.startswith(ATTRIBUTE)]
    properties = filterable(collections) if named else {}
    for name in named:
        try:
            conditions.append(_attribute(name, query.getlist(name), properties))
        except ValueError as error:
            errors[name] = [str(error)]
    return tuple(conditions), errors


def _attribute(
    name: str, values: Sequence[str], properties: Mapping[str, Any] | None
) -> Condition:
    attribute, _, lookup = name.removeprefix(ATTRIBUTE).partition("__")
    if properties is None:
        raise ValueError("Attributes are filtered by within one `collection`.")
    if attribute not in properties:
        known = f"; it can by {', '.join(properties)}" if properties else ""
        message = f"The collection cannot be filtered by “{attribute[:50]}”{known}."
        raise ValueError(message)
    if lookup not in LOOKUPS and name.removeprefix(ATTRIBUTE) != attribute:
        raise ValueError(f"After __ is one of {', '.join(LOOKUPS)}.")
    value = _value(properties[attribute], lookup, _bounded(values))
    return partial(_having, attribute, lookup or "in", value)


def _filtered(condition: Q, rows: ItemQuerySet) -> ItemQuerySet:
    return rows.filter(condition)


def _having(
    attribute: str, lookup: str, value: Any, rows: ItemQuerySet
) -> ItemQuerySet:
    alias = f"attribute_{attribute}"
    rows = rows.alias(**{alias: AttributeValue(attribute, "attributes")})
    return rows.filter(**{f"{alias}__{lookup}": value})


def _bounded(values: Sequence[str]) -> Sequence[str]:
    if len(values) > VALUES_MAX:
        raise ValueError(f"May be given at most {VALUES_MAX} times.")
    return values


def filterable(collections: Sequence[str]) -> dict[str, Any] | None:
    """Return what the schema declares, by attribute; None without one collection."""
    if len(collections) != 1:
        return None
    collection = Collection.objects.filter(pk=collections[0]).first()
    return filterable_of(collection) if collection else {}


def filterable_of(collection: Collection) -> dict[str, Any]:
    schema = collection.attributes
    return {
        name: schema.properties[name]
        for name in schema.filterable
        if schema.properties[name]["type"] != "array"
    }


def _value(declared: Mapping[str, Any], lookup: str, values: Sequence[str]) -> Any:
    if lookup == "isnull":
        return _boolean(values[-1])
    if lookup in RANGES:
        return _ordered(declared, values[-1])
    if lookup == "in":
        values = _bounded([part for value in values for part in value.split(",")])
    return [_typed(declared["type"], value) for value in values]


def _ordered(declared: Mapping[str, Any], text: str) -> Any:
    if declared["type"] in ("integer", "number"):
        return _typed(declared["type"], text)
    # Other text the databases order each in its own way.
    if declared.get("format") != "date":
        raise ValueError("Only numbers and dates have an order.")
    day = rules.clean_date(text)
    if day is None:
        raise ValueError("Must be a date, such as 2026-12-31.")
    return day.isoformat()


def _typed(kind: str, text: str) -> Any:
    match kind:
        case "boolean":
            return _boolean(text)
        case "integer" | "number":
            return _number(text, is_integer=kind == "integer")
        case _:
            return rules.clean_text(text, max_length=rules.ATTRIBUTE_MAX)


def _boolean(text: str) -> bool:
    if text not in BOOLEANS:
        raise ValueError("Must be true or false.")
    return BOOLEANS[text]


def _number(text: str, *, is_integer: bool) -> int | float:
    number = float(text) if _is_number(text) else inf
    if abs(number) > rules.INTEGER_MAX or (is_integer and not number.is_integer()):
        raise ValueError(f"Must be a {'whole ' * is_integer}number.")
    return int(number) if number.is_integer() else number
