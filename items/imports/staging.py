"""A batch of an import, written in sets: staged, compared, applied, logged.

The rows go into a temporary table (by COPY on PostgreSQL), one statement compares
them with the catalogue, and the rest is a handful of set-based statements whatever
the number of rows. The SQL is the same for both databases but for a few functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from items import rules
from items.catalogue import note_changes
from items.models import Item
from resilient_site.accounts.actor import Actor
from resilient_site.observability.request_id import current_request_id
from resilient_site.resilience.transactions import atomic_with_retries


class Row(NamedTuple):
    """A row as staged; None in description or tags leaves an item's own."""

    id: str
    name: str
    description: str | None
    tags: str | None  # sorted names with single spaces between


@dataclass(frozen=True)
class Counts:
    created: int
    updated: int
    unchanged: int


@dataclass(frozen=True)
class Dialect:
    """Where the SQL of the two databases differs."""

    current_tags: str  # the tags of item `i`, as Row.tags has them
    split: str  # a table `tag(value)` of the tags in plan `p`
    state: str  # the JSON of an item's state; {0} is "old_" or nothing
    stage: Callable[[CursorWrapper, Sequence[tuple[Any, ...]]], None]


def compare(rows: Sequence[Row]) -> Counts:
    """Return what `apply` would do at this moment; change nothing."""
    with connection.cursor() as cursor:
        counts = _plan(cursor, rows)
        _drop(cursor)
    return counts


@atomic_with_retries
def apply(rows: Sequence[Row], *, actor: Actor) -> Counts:
    """Create and update items so that they are as `rows` say; ids are distinct.

    All or none: one transaction, with its entries in the change log.
    """
    sql = _dialect()
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Few rows against many: probe the indexes, whatever the statistics say.
            cursor.execute(
                "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "
                "SET LOCAL statement_timeout = 0"
            )
        counts = _plan(cursor, rows, lock=True)
        if counts.created or counts.updated:
            now = connection.ops.adapt_datetimefield_value(timezone.now())
            _write_items(cursor, now)
            _write_tags(cursor, sql)
            _write_log(cursor, sql, now, actor)
            note_changes(row.id for row in rows)
        _drop(cursor)
    return counts


def _plan(cursor: CursorWrapper, rows: Sequence[Row], lock: bool = False) -> Counts:
    sql = _dialect()
    _drop(cursor)
    cursor.execute(
        "CREATE TEMP TABLE items_stage "
        "(id text, name text, description text, tags text, search_text text)"
    )
    if lock and connection.vendor == "postgresql":
        _lock(cursor, [row.id for row in rows])
    sql.stage(cursor, _with_search_text(rows))
    cursor.execute(
        f"""
        CREATE TEMP TABLE items_plan AS
        SELECT s.id, s.name, s.description, s.search_text,
               COALESCE(s.tags, {sql.current_tags}, '') AS tags,
               i.id IS NOT NULL AS known,
               i.name AS old_name, i.description AS old_description,
               COALESCE({sql.current_tags}, '') AS old_tags,
               COALESCE(
                   i.version,
                   (SELECT MAX(c.version) FROM items_itemchange c
                    WHERE c.item_id = s.id),
                   0
               ) + 1 AS version
        FROM items_stage s LEFT JOIN items_item i ON i.id = s.id
        """
    )
    cursor.execute(
        "DELETE FROM items_plan WHERE known AND name = old_name "
        "AND description = old_description AND tags = old_tags"
    )
    cursor.execute(
        "SELECT COUNT(CASE WHEN known THEN NULL ELSE 1 END), "
        "COUNT(CASE WHEN known THEN 1 END) FROM items_plan"
    )
    created, updated = cursor.fetchone()
    return Counts(created, updated, len(rows) - created - updated)


def _lock(cursor: CursorWrapper, ids: list[str]) -> None:
    # In the order of the ids, so that two imports wait and do not deadlock.
    cursor.execute(
        "SELECT COUNT(*) FROM (SELECT 1 FROM items_item WHERE id = ANY(%s) "
        "ORDER BY id FOR UPDATE) AS locked",
        [ids],
    )


def _with_search_text(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    kept = [row.id for row in rows if row.description is None]
    descriptions: dict[str, str] = {}
    if kept:
        found = Item.objects.filter(pk__in=kept).values_list("pk", "description")
        descriptions = dict(found)
    staged = []
    for pk, name, given, tags in rows:
        description = descriptions.get(pk, "") if given is None else given
        text = rules.search_text(name, description)
        staged.append((pk, name, description, tags, text))
    return staged


def _write_items(cursor: CursorWrapper, now: Any) -> None:
    cursor.execute(
        """
        INSERT INTO items_item (id, name, description, version,
                                created_at, updated_at, search_text)
        SELECT id, name, description, version, %s, %s, search_text
        FROM items_plan WHERE NOT known ORDER BY id
        """,
        [now, now],
    )
    cursor.execute(
        """
        UPDATE items_item
        SET name = p.name, description = p.description, version = p.version,
            updated_at = %s, search_text = p.search_text
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
                                      at, actor_id, actor_name, request_id)
        SELECT p.id, p.version,
               CASE WHEN known THEN 'updated' ELSE 'created' END,
               CASE WHEN known THEN {sql.state.format("old_")} END,
               {sql.state.format("")},
               %s, %s, %s, %s
        FROM items_plan p
        """,
        [now, actor.user.pk if actor.user else None, actor.name, current_request_id()],
    )


def _drop(cursor: CursorWrapper) -> None:
    for table in ("items_plan", "items_stage"):
        cursor.execute(f"DROP TABLE IF EXISTS {table}")


def _copy(cursor: CursorWrapper, rows: Sequence[tuple[Any, ...]]) -> None:
    with cursor.copy("COPY items_stage FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _insert(cursor: CursorWrapper, rows: Sequence[tuple[Any, ...]]) -> None:
    cursor.executemany("INSERT INTO items_stage VALUES (%s, %s, %s, %s, %s)", rows)


_LINKS = "items_itemtag l JOIN items_tag t ON t.id = l.tag_id WHERE l.item_id = i.id"

# Tag names have no spaces and no quotes, so text and JSON array convert by replacing.
_TAGS_JSON = """
    CASE WHEN p.{0}tags = '' THEN '[]'
         ELSE '["' || REPLACE(p.{0}tags, ' ', '","') || '"]' END
"""
_STATE = "('name', p.{0}name, 'description', p.{0}description, 'tags', "

POSTGRESQL = Dialect(
    current_tags=(
        f"(SELECT STRING_AGG(t.name, ' ' ORDER BY t.name COLLATE \"C\") FROM {_LINKS})"
    ),
    split="UNNEST(STRING_TO_ARRAY(p.tags, ' ')) AS tag(value)",
    state=f"JSONB_BUILD_OBJECT{_STATE}({_TAGS_JSON})::jsonb)",
    stage=_copy,
)
SQLITE = Dialect(
    current_tags=(
        f"(SELECT GROUP_CONCAT(name, ' ') FROM "
        f"(SELECT t.name FROM {_LINKS} ORDER BY t.name))"
    ),
    split=f"JSON_EACH({_TAGS_JSON.format('')}) AS tag",
    state=f"JSON_OBJECT{_STATE}JSON({_TAGS_JSON}))",
    stage=_insert,
)


def _dialect() -> Dialect:
    return POSTGRESQL if connection.vendor == "postgresql" else SQLITE
