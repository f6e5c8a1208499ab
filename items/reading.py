"""Items as they are, by statements that are compiled once: what most requests need.

To compile them by the ORM each time takes longer than to run them. On PostgreSQL they
are also planned once for each connection.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson
from django.db import DEFAULT_DB_ALIAS, connection, router
from django.db.models import Max, OuterRef, StringAgg, Subquery, Value

from items import fields
from items.models import Collection, Item, ItemChange, ItemQuerySet, ItemTag, Tag
from resilient_site.postgres.statements import fetch_rows

# In the order of the columns that `_find_items_sql` selects.
READ_COLUMNS = [
    field.attname
    for field in Item._meta.concrete_fields
    if field.name not in fields.SEARCH_COLUMNS
]
# Where those are that psycopg hands on as text.
JSON_COLUMNS = [
    READ_COLUMNS.index(f.name) for f in fields.COLUMN_FIELDS if f.kind == "json"
]
COLLECTION_COLUMNS = [field.attname for field in Collection._meta.concrete_fields]
# With what the statement saw before it waited for the lock, if it had to.
LOCK_ITEM = f"""
    SELECT {", ".join(f"i.{name}" for name in READ_COLUMNS)},
        {", ".join(f"c.{name}" for name in COLLECTION_COLUMNS)},
        (SELECT string_agg(t.name, E'\n') FROM items_itemtag l
            JOIN items_tag t ON t.id = l.tag_id WHERE l.item_id = i.id),
        (SELECT version FROM items_item WHERE id = i.id)
    FROM items_item i LEFT JOIN items_collection c ON c.key = i.collection_id
    WHERE i.id = %s FOR NO KEY UPDATE OF i
"""  # noqa: S608 - put together of constants
COLLECTION_AND_LAST_VERSION = f"""
    SELECT {", ".join(COLLECTION_COLUMNS)},
        (SELECT MAX(version) FROM items_itemchange WHERE item_id = %s)
    FROM items_collection WHERE key = %s
"""  # noqa: S608


def find_item(item_id: str) -> Item | None:
    """Return the item with its tags, by one query."""
    return find_items([item_id]).get(item_id)


def find_items(item_ids: Sequence[str]) -> dict[str, Item]:
    """Return those of the items that there are, with their tags, by one query."""
    sql, params = _find_items_sql()
    if connection.vendor == "postgresql":
        sql = sql.replace("IN (%s)", "= ANY(%s)")
        rows = fetch_rows(sql, [*params, [*item_ids]], router.db_for_read(Item))
        found = [_with_tags(_from_row(row[:-1]), row[-1]) for row in rows]
    else:
        marks = ", ".join(["%s"] * len(item_ids))
        raw = Item.objects.raw(
            sql.replace("IN (%s)", f"IN ({marks})"), [*params, *item_ids]
        )
        found = [_with_tags(item, vars(item)["tag_names_in_row"]) for item in raw]
    return {item.pk: item for item in found}


def _with_tags(item: Item, names: str | None) -> Item:
    item.set_loaded_tags([Tag(name=name) for name in (names or "").split("\n") if name])
    return item


def _from_row(row: Sequence[Any]) -> Item:
    values = list(row)
    for place in JSON_COLUMNS:
        values[place] = orjson.loads(values[place])
    return Item.from_db(DEFAULT_DB_ALIAS, READ_COLUMNS, values)


@cache
def _find_items_sql() -> tuple[str, tuple[object, ...]]:
    """Return the SQL for one id, and its parameters before that.

    Every read that misses the cache needs it. Compiling it each time, and fetching the
    tags by a second query, takes six times as long as running it.
    """
    sql, params = _with_tag_names().filter(pk__in=[""]).query.sql_with_params()
    return sql, params[:-1]


def _with_tag_names() -> ItemQuerySet:
    names = (
        ItemTag.objects.filter(item=OuterRef("pk"))
        .values("item")
        .annotate(names=StringAgg("tag__name", Value("\n")))
        .values("names")
    )
    rows = Item.objects.defer(*fields.SEARCH_COLUMNS)
    return rows.annotate(tag_names_in_row=Subquery(names))


def find_item_with_collection(item_id: str) -> Item | None:
    """Return the item with its tags and its collection, by one query."""
    rows = _with_tag_names().select_related("collection")
    item = rows.filter(pk=item_id).first()
    return _with_tags(item, vars(item)["tag_names_in_row"]) if item else None


def lock_item(item_id: str) -> Item | None:
    """Return the item as it is now, with its tags and collection, locked for a write.

    Others may go on referring to it: its key is not locked.
    """
    if connection.vendor != "postgresql":
        rows = Item.objects.for_reading().select_related("collection")
        return rows.filter(pk=item_id).first()
    while found := fetch_rows(LOCK_ITEM, [item_id]):
        *values, tags, version_seen = found[0]
        item = _from_row(values[: len(READ_COLUMNS)])
        # Else it was changed while this waited: its tags and collection are seen now.
        if item.version == version_seen:
            item.collection = _collection_from_row(values[len(READ_COLUMNS) :])
            return _with_tags(item, tags)
    return None


def find_collection_and_last_version(
    key: str, item_id: str
) -> tuple[Collection | None, int]:
    """Return the collection, and the last version of the item in the change log."""
    if connection.vendor != "postgresql":
        collection = Collection.objects.filter(pk=key).first()
        changes = ItemChange.objects.filter(item_id=item_id)
        return collection, changes.aggregate(last=Max("version"))["last"] or 0
    found = fetch_rows(COLLECTION_AND_LAST_VERSION, [item_id, key])
    if not found:
        return None, 0
    *values, last = found[0]
    return _collection_from_row(values), last or 0


def _collection_from_row(values: list[Any]) -> Any:
    for name in ("schema", "next_schema"):
        place = COLLECTION_COLUMNS.index(name)
        values[place] = values[place] and orjson.loads(values[place])
    return Collection.from_db(DEFAULT_DB_ALIAS, COLLECTION_COLUMNS, values)
