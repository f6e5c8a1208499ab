"""Set-based writing of an import's batch: stage, compare, apply, log.

The rows go into a temporary table (by COPY on PostgreSQL), one statement compares
them with the catalogue, and the rest is a handful of set-based statements whatever
the number of rows. The SQL is made from the declared fields, and is the same for both
databases but for a few functions. Every value is staged as text; NULL leaves an
item's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from items import fields
from items.catalogue import invalidate_items
from items.fields import (
    COLUMN_FIELDS,
    SEARCH_COLUMNS,
    SEARCHED_FIELDS,
    STATE_FIELDS,
    ItemData,
)
from items.models import Item
from resilient_site.accounts.actor import Actor
from resilient_site.observability.request_id import current_own_id, offered_id
from resilient_site.resilience.transactions import atomic_with_retries

# Of a row: the version of the item that it was made of. It is no older one's to
# overwrite what others have written since.
BASE_VERSION = "base_version"


class Counts(NamedTuple):
    created: int
    updated: int
    unchanged: int
    # Why rows are not applied, by id.
    rejected: dict[str, str]


@dataclass(frozen=True)
class Dialect:
    """Where the SQL of the two databases differs."""

    current_tags: str  # the tags of item `i`, as the staging table has them
    split: str  # a table `tag(value)` of the tags in plan `p`
    json_object: str  # builds the state from names and values
    json_list: str  # makes JSON of a text that is a list
    stage: Callable[[CursorWrapper, Sequence[tuple[Any, ...]]], None]


def compare(rows: Sequence[ItemData]) -> Counts:
    """Return what `apply` would do at this moment; change nothing."""
    with connection.cursor() as cursor:
        counts = _plan(cursor, rows)
        _drop(cursor)
    return counts


@atomic_with_retries
def apply(rows: Sequence[ItemData], *, actor: Actor) -> Counts:
    """Create and update items so that they are as `rows` say; ids are distinct.

    Fields that a row lacks stay as they are. All or none: one transaction, with its
    entries in the change log; left out are rows of an older version of their item,
    and those of a new item that lack what it needs.
    """
    sql = _dialect()
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Few rows against many: probe the indexes, whatever the statistics say.
            cursor.execute(
                "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "
                "SET LOCAL statement_timeout = 0"
            )
            # In the order of the ids, so that two imports wait and do not deadlock.
            cursor.execute(
                "SELECT COUNT(*) FROM (SELECT 1 FROM items_item WHERE id = ANY(%s) "
                "ORDER BY id FOR UPDATE) AS locked",
                [[row["id"] for row in rows]],
            )
        counts = _plan(cursor, rows)
        if counts.created or counts.updated:
            now = connection.ops.adapt_datetimefield_value(timezone.now())
            _write_items(cursor, now)
            _write_tags(cursor, sql)
            _write_log(cursor, sql, now, actor)
            invalidate_items(row["id"] for row in rows)
        _drop(cursor)
    return counts


def _plan(cursor: CursorWrapper, rows: Sequence[ItemData]) -> Counts:
    sql = _dialect()
    _drop(cursor)
    columns = ", ".join(f"{name} text" for name in STAGED)
    cursor.execute(f"CREATE TEMP TABLE items_stage ({columns}, {BASE_VERSION} bigint)")
    sql.stage(cursor, _staged(rows))
    current = {
        field.name: f"i.{field.name}" if field.is_column else sql.current_tags
        for field in STATE_FIELDS
    }
    new_and_old = ", ".join(
        f"COALESCE(s.{name}, {of_item}, '') AS {name}, "
        f"COALESCE({of_item}, '') AS old_{name}"
        for name, of_item in current.items()
    )
    derived = ", ".join(f"s.{name}" for name in SEARCH_COLUMNS)
    cursor.execute(
        f"""
        CREATE TEMP TABLE items_plan AS
        SELECT s.id, {derived}, s.{BASE_VERSION}, i.id IS NOT NULL AS known,
               {new_and_old},
               COALESCE(
                   i.version,
                   (SELECT MAX(c.version) FROM items_itemchange c
                    WHERE c.item_id = s.id),
                   0
               ) + 1 AS version
        FROM items_stage s LEFT JOIN items_item i ON i.id = s.id
        """
    )
    unchanged = " AND ".join(f"{name} = old_{name}" for name in current)
    cursor.execute(f"DELETE FROM items_plan WHERE known AND {unchanged}")
    rejected = _reject(cursor)
    cursor.execute(
        "SELECT COUNT(CASE WHEN known THEN NULL ELSE 1 END), "
        "COUNT(CASE WHEN known THEN 1 END) FROM items_plan"
    )
    created, updated = cursor.fetchone()
    unchanged_rows = len(rows) - created - updated - len(rejected)
    return Counts(created, updated, unchanged_rows, rejected)


def _reject(cursor: CursorWrapper) -> dict[str, str]:
    """Remove from the plan what must not be written; return the reasons by id."""
    lacks = " OR ".join(
        f"{field.name} = ''" for field in STATE_FIELDS if field.is_required
    )
    condition = f"{BASE_VERSION} < version - 1 OR (NOT known AND ({lacks}))"
    cursor.execute(
        f"SELECT id, known, {BASE_VERSION}, version - 1 FROM items_plan "
        f"WHERE {condition}"
    )
    rejected = {}
    for pk, known, base, version in cursor.fetchall():
        if base is None or base >= version:
            reason = "There is no item with this id; a new one needs a name."
        elif known:
            reason = (
                f"Conflict: the item is at version {version}, and this row is made of "
                f"version {base}."
            )
        else:
            reason = f"Conflict: the item was deleted since version {base}."
        rejected[pk] = reason
    if rejected:
        cursor.execute(f"DELETE FROM items_plan WHERE {condition}")
    return rejected


def _staged(rows: Sequence[ItemData]) -> list[tuple[str | int | None, ...]]:
    """Return the rows of the staging table, with their search columns."""
    searched = {field.name for field in SEARCHED_FIELDS}
    partial = [row["id"] for row in rows if not row.keys() >= searched]
    found = Item.objects.filter(pk__in=partial).values("pk", *searched)
    kept = {item.pop("pk"): item for item in found}
    columns = [(field.name, field.to_text) for field in STATE_FIELDS]
    staged = []
    for row in rows:
        texts = [
            to_text(row[name]) if name in row else None for name, to_text in columns
        ]
        state = fields.empty_state() | kept.get(row["id"], {}) | row
        derived = fields.search_columns(state).values()
        staged.append((row["id"], *texts, *derived, row.get(BASE_VERSION)))
    return staged


def _write_items(cursor: CursorWrapper, now: Any) -> None:
    names = [field.name for field in COLUMN_FIELDS]
    columns = ", ".join(["id", *names, "version", *SEARCH_COLUMNS])
    cursor.execute(
        f"""
        INSERT INTO items_item ({columns}, created_at, updated_at)
        SELECT {columns}, %s, %s FROM items_plan WHERE NOT known ORDER BY id
        """,
        [now, now],
    )
    values = ", ".join(f"{name} = p.{name}" for name in [*names, *SEARCH_COLUMNS])
    cursor.execute(
        f"""
        UPDATE items_item
        SET {values}, version = p.version, updated_at = %s
        FROM items_plan p WHERE p.known AND items_item.id = p.id
        """,
        [now],
    )


def _write_tags(cursor: CursorWrapper, sql: Dialect) -> None:
    cursor.execute(
        f"INSERT INTO items_tag (name, description) "
        f"SELECT DISTINCT tag.value, '' FROM items_plan p, {sql.split} "
        f"WHERE p.tags <> p.old_tags ORDER BY 1 ON CONFLICT DO NOTHING"
    )
    cursor.execute(
        f"""
        DELETE FROM items_itemtag
        WHERE item_id IN (SELECT id FROM items_plan WHERE known AND tags <> old_tags)
          AND NOT EXISTS (
            SELECT 1 FROM items_plan p, {sql.split}
            JOIN items_tag t ON t.name = tag.value
            WHERE p.id = items_itemtag.item_id AND t.id = items_itemtag.tag_id)
        """
    )
    cursor.execute(
        f"INSERT INTO items_itemtag (item_id, tag_id) "
        f"SELECT p.id, t.id FROM items_plan p, {sql.split} "
        f"JOIN items_tag t ON t.name = tag.value "
        f"WHERE p.tags <> p.old_tags ON CONFLICT DO NOTHING"
    )


def _write_log(cursor: CursorWrapper, sql: Dialect, now: Any, actor: Actor) -> None:
    cursor.execute(
        f"""
        INSERT INTO items_itemchange (item_id, version, action, before, after,
                                      at, actor_id, actor_name, request_id,
                                      client_request_id)
        SELECT p.id, p.version,
               CASE WHEN known THEN 'updated' ELSE 'created' END,
               CASE WHEN known THEN {_state(sql, "old_")} END,
               {_state(sql, "")},
               %s, %s, %s, %s, %s
        FROM items_plan p
        """,
        [
            now,
            actor.user.pk if actor.user else None,
            actor.name,
            current_own_id(),
            offered_id(),
        ],
    )


def _state(sql: Dialect, prefix: str) -> str:
    """Return the SQL of an item's state as JSON, from the plan's columns."""
    values = []
    for field in STATE_FIELDS:
        column = f"p.{prefix}{field.name}"
        value = sql.json_list.format(column) if field.is_list else column
        values.append(f"'{field.name}', {value}")
    return f"{sql.json_object}({', '.join(values)})"


def _drop(cursor: CursorWrapper) -> None:
    for table in ("items_plan", "items_stage"):
        cursor.execute(f"DROP TABLE IF EXISTS {table}")


def _copy(cursor: CursorWrapper, rows: Sequence[tuple[Any, ...]]) -> None:
    with cursor.copy("COPY items_stage FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _insert(cursor: CursorWrapper, rows: Sequence[tuple[Any, ...]]) -> None:
    values = ", ".join(["%s"] * (len(STAGED) + 1))
    cursor.executemany(f"INSERT INTO items_stage VALUES ({values})", rows)


STAGED = ("id", *(field.name for field in STATE_FIELDS), *SEARCH_COLUMNS)
_LINKS = "items_itemtag l JOIN items_tag t ON t.id = l.tag_id WHERE l.item_id = i.id"

# Tag names have no spaces and no quotes, so text and JSON array convert by replacing.
_JSON_ARRAY = (
    "CASE WHEN {0} = '' THEN '[]' "
    """ELSE '["' || REPLACE({0}, ' ', '","') || '"]' END"""
)

POSTGRESQL = Dialect(
    current_tags=(
        f"(SELECT STRING_AGG(t.name, ' ' ORDER BY t.name COLLATE \"C\") FROM {_LINKS})"
    ),
    split="UNNEST(STRING_TO_ARRAY(p.tags, ' ')) AS tag(value)",
    json_object="JSONB_BUILD_OBJECT",
    json_list=f"({_JSON_ARRAY})::jsonb",
    stage=_copy,
)
SQLITE = Dialect(
    current_tags=(
        f"(SELECT GROUP_CONCAT(name, ' ') FROM "
        f"(SELECT t.name FROM {_LINKS} ORDER BY t.name))"
    ),
    split=f"JSON_EACH({_JSON_ARRAY.format('p.tags')}) AS tag",
    json_object="JSON_OBJECT",
    json_list=f"JSON({_JSON_ARRAY})",
    stage=_insert,
)


def _dialect() -> Dialect:
    return POSTGRESQL if connection.vendor == "postgresql" else SQLITE
