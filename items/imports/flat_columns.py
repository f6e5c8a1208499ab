"""Columns of exports in which each attribute and label has its own.

The attributes of the schema come first, in its order, if all items are of one
collection; then what else is found. What has no room, or would be taken for another
attribute, stays together in `attributes` and `labels`: an import reads these first.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from items import fields
from items.field_types import ItemField
from items.imports.attribute_cells import Declared, show
from items.models import Collection, Item

# Columns of each field: with the others together as many as an import reads.
MEMBERS_MAX = {"labels": 60, "attributes": 120}
# The names of the members that objects have, by database.
KEYS = {
    "postgresql": (
        "SELECT DISTINCT k FROM ({0}) s, JSONB_OBJECT_KEYS(s.{1}) k "
        "ORDER BY 1 LIMIT {2}"
    ),
    "sqlite": (
        "SELECT DISTINCT k.key FROM ({0}) s, JSON_EACH(s.{1}) k ORDER BY 1 LIMIT {2}"
    ),
}


class Layout(NamedTuple):
    names: Sequence[str]
    cells: Callable[[Item], list[str | int]]


def plain_layout() -> Layout:
    names = (*(field.name for field in fields.FIELDS), *fields.READ_ONLY)
    readers = [_whole(field) for field in fields.FIELDS]
    return Layout(names, lambda item: _read(item, readers))


def flat_layout(items: QuerySet[Item]) -> Layout:
    """Return the columns of these items. It takes a query over all of them."""
    declared = {
        key: {n: d for s in reversed(one.schemas) for n, d in s.properties.items()}
        for key, one in Collection.objects.in_bulk().items()
    }
    keys = items.order_by().values_list("collection_id", flat=True).distinct()[:2]
    schemas = [declared.get(key, {}) for key in keys]
    first = list(schemas[0]) if len(schemas) == 1 else []
    folded: dict[str, set[str]] = {}
    for schema in declared.values():
        for name in schema:
            folded.setdefault(name.lower(), set()).add(name)
    names, readers = list[str](), list[Callable[[Item], str]]()
    for field in fields.FIELDS:
        if field.name not in MEMBERS_MAX:
            names.append(field.name)
            readers.append(_whole(field))
            continue
        found = _member_names(items, field.name)
        own = found
        if field.name == "attributes":
            own = [n for n in found if folded.get(n.lower(), {n}) == {n}]
            own = list(dict.fromkeys([*first, *own]))
        own = own[: MEMBERS_MAX[field.name]]
        if not set(found) <= set(own):
            names.append(field.name)
            readers.append(_rest(field, set(own)))
        names += [f"{field.name}.{name}" for name in own]
        for name in own:
            is_label = field.name == "labels"
            readers.append(_label(name) if is_label else _attribute(name, declared))
    return Layout((*names, *fields.READ_ONLY), lambda item: _read(item, readers))


def _read(item: Item, readers: Sequence[Callable[[Item], str]]) -> list[str | int]:
    return [
        *(read(item) for read in readers),
        item.version,
        item.created_at.isoformat(),
        item.updated_at.isoformat(),
    ]


def _whole(field: ItemField) -> Callable[[Item], str]:
    return lambda item: field.to_text(field.read(item))


def _rest(field: ItemField, own: set[str]) -> Callable[[Item], str]:
    def read(item: Item) -> str:
        members = field.read(item)
        return field.to_text({n: one for n, one in members.items() if n not in own})

    return read


def _label(name: str) -> Callable[[Item], str]:
    return lambda item: item.labels.get(name, "")


def _attribute(
    name: str, declared: dict[str, dict[str, Declared]]
) -> Callable[[Item], str]:
    def read(item: Item) -> str:
        schema: dict[str, Any] = declared.get(item.collection_id or "", {})
        return show(schema.get(name), item.attributes.get(name))

    return read


def _member_names(items: QuerySet[Item], field: str) -> list[str]:
    """Return the names of members that any of the items has, a few more than shown."""
    try:
        sql, params = items.order_by().values(field).query.sql_with_params()
    except EmptyResultSet:
        return []
    keys = KEYS[connection.vendor].format(sql, field, MEMBERS_MAX[field] * 2)
    with connection.cursor() as cursor:
        cursor.execute(keys, params)
        return sorted(name for (name,) in cursor.fetchall())
