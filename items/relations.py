"""The relations of items: what is above one, what is below, and what refers to it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import connections, router
from django.db.models import CharField, Q, QuerySet
from django.db.models.expressions import RawSQL

from items.integrity import POINTERS, having
from items.models import Collection, Item, ItemLink, ItemQuerySet

# Without ALL: each ends whatever it finds, and once for each item.
_ABOVE = """
WITH RECURSIVE above (id) AS (
    SELECT {column} FROM items_item WHERE id = %s
    UNION
    SELECT item.{column} FROM above JOIN items_item AS item ON item.id = above.id
)
SELECT id FROM above WHERE id IS NOT NULL
"""
_BELOW = """
WITH RECURSIVE below (id) AS (
    SELECT id FROM items_item WHERE parent_id IN ({})
    UNION
    SELECT item.id FROM below JOIN items_item AS item ON item.parent_id = below.id
)
SELECT id FROM below
"""
# The same with the names, all read from an index; of the items only some are needed.
_BELOW_BY_NAME = """
WITH RECURSIVE below (id, sort_key) AS (
    SELECT id, sort_key FROM items_item WHERE parent_id IN ({ids})
    UNION
    SELECT item.id, item.sort_key
    FROM below JOIN items_item AS item ON item.parent_id = below.id
)
SELECT id FROM below WHERE {beyond} ORDER BY sort_key {order}, id {order} LIMIT %s
"""


def ancestors(item: Item) -> list[Item]:
    """Return the items above this one, from the top down."""
    if not item.parent_id:
        return []
    above = Item.objects.for_reading().filter(is_above(item.pk, "parent"))
    return chain(item, "parent", {one.pk: one for one in above})[::-1]


def is_above(item_id: str, pointer: str) -> Q:
    """Return the condition that one of POINTERS leads from an item to this one."""
    sql = _ABOVE.format(column=f"{pointer}_id")
    return Q(pk__in=RawSQL(sql, [item_id], CharField()))  # noqa: S611 - parameters


def chain(item: Item, pointer: str, by_id: Mapping[str, Item]) -> list[Item]:
    """Return what one of POINTERS leads to from an item, the nearest first.

    One that is not in `by_id` ends it: it may have been detached meanwhile.
    """
    found: dict[str, Item] = {}
    while (pk := getattr(item, f"{pointer}_id")) in by_id and pk not in found:
        item = found[pk] = by_id[pk]
    return list(found.values())


def is_below(item_ids: Sequence[str]) -> Q:
    """Return the condition that an item is below one of these, at any level."""
    sql = _BELOW.format(", ".join(["%s"] * len(item_ids)))
    return Q(pk__in=RawSQL(sql, item_ids, CharField()))  # noqa: S611 - parameters


def first_below(
    item_ids: Sequence[str],
    *,
    after: Sequence[Any] | None,
    descending: bool,
    limit: int,
) -> list[str]:
    """Return the ids of the first items below these, by name, after a sort key and id.

    However many there are, no more than `limit` are to be read from the table.
    """
    sql = _BELOW_BY_NAME.format(
        ids=", ".join(["%s"] * len(item_ids)),
        beyond=f"(sort_key, id) {'<' if descending else '>'} (%s, %s)"
        if after
        else "TRUE",
        order="DESC" if descending else "ASC",
    )
    with connections[router.db_for_read(Item)].cursor() as cursor:
        cursor.execute(sql, [*item_ids, *(after or ()), limit])
        return [pk for (pk,) in cursor]


class References:
    """The items that refer to one item, and by which fields."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.code = item.code or item.pk
        # Attributes that hold the code, with their own collections.
        self.attributes = [
            (collection.key, name)
            for collection in Collection.objects.order_by("key")
            for name, key in collection.attributes.references.items()
            if key == item.collection_id
        ]

    def items(self) -> ItemQuerySet:
        pk = self.item.pk
        found: list[QuerySet[Any, Any]] = [
            Item.objects.filter(**{name: pk}).values("pk") for name in POINTERS
        ]
        found.append(ItemLink.objects.filter(target=pk).values("item_id"))
        found += [
            having(key, name, [self.code]).values("pk") for key, name in self.attributes
        ]
        # Each by an index of its own.
        return Item.objects.filter(pk__in=found[0].union(*found[1:])).exclude(pk=pk)

    def fields(self, referrer: Item) -> list[str]:
        """Return the fields by which `referrer` refers to the item, as paths."""
        return list(dict.fromkeys(self._fields(referrer)))

    def _fields(self, referrer: Item) -> Iterator[str]:
        for name in POINTERS:
            if getattr(referrer, f"{name}_id") == self.item.pk:
                yield name
        for link in referrer.links:
            if link["target"] == self.item.pk:
                yield f"links.{link['relation']}"
        for key, name in self.attributes:
            is_same = referrer.attributes.get(name) == self.code
            if key == referrer.collection_id and is_same:
                yield f"attributes.{name}"
