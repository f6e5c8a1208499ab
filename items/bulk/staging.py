"""Set-based writing of many rows: stage, compare, apply, log.

What `items.bulk.checking` has left of them goes into a temporary table (by COPY on
PostgreSQL), one statement compares it with the catalogue, and the rest is a handful of
set-based statements whatever the number of rows. The SQL is made from the declared
fields, and is the same for both databases but for a few functions. Every value is
staged as text; NULL leaves an item's own. Where all items are new there is nothing to
compare: they are copied into their tables (`creation`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from items import fields, integrity
from items.bulk import creation
from items.bulk.batches import count
from items.bulk.checking import BASE_VERSION, Absence, Batch
from items.bulk.rows import insert_rows
from items.catalogue import invalidate_items
from items.field_types import ItemField
from items.fields import COLUMN_FIELDS, SEARCH_COLUMNS, STATE_FIELDS, ItemData
from items.integrity import ItemErrors
from resilient_site.accounts.actor import Actor
from resilient_site.resilience.transactions import atomic_with_retries


class Counts(NamedTuple):
    created: int
    updated: int
    unchanged: int
    # What is wrong with rows that are not applied, by id.
    errors: dict[str, ItemErrors]
    # Of those, the ones that are only because of what is absent.
    absent: dict[str, Absence]

    @property
    def rejected(self) -> dict[str, str]:
        """Why rows are not applied, each in one line, by id."""
        return {pk: integrity.describe(found) for pk, found in self.errors.items()}

    def plus(self, more: "Counts") -> "Counts":
        """Return the sums, with what was rejected here."""
        return self._replace(
            created=self.created + more.created,
            updated=self.updated + more.updated,
            unchanged=self.unchanged + more.unchanged,
        )


class Difference(NamedTuple):
    """An item as it is, None if it is new, and as it would be: what differs of it."""

    id: str
    name: str
    before: ItemData | None
    after: ItemData


class Kind(NamedTuple):
    """The SQL of a kind of field: {0} is a column, or a text that is staged."""

    current: str  # what an item has, as the plan has it
    staged: str  # what was staged, as the plan has it
    stored: str = "{0}"  # what the plan has, as an item has it
    in_json: str = "{0}"  # what the plan has, as a member of the state


@dataclass(frozen=True)
class Dialect:
    """Where the SQL of the two databases differs."""

    kinds: Mapping[str, Kind]
    current_tags: str  # the tags of item `i`, as a JSON array
    tags: str  # a table `tag(value)` of the tags in plan `p`
    links: str  # a table `link` of the links in plan `p`
    relation: str  # the relation of such a `link`
    target: str  # and its target
    json_object: str  # builds the state from names and values
    one_of: str  # whether a column is in a subquery, which runs once


def _rows(batch: Batch, given: Sequence[ItemField]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the staging table, with the search columns if made anew."""
    columns = [(field.name, _staged(field)) for field in given]
    derived: Iterable[str] = ()
    for pk, row in batch.rows.items():
        texts = [to(row[name]) if name in row else None for name, to in columns]
        if batch.is_searched:
            state = batch.states[pk]
            searchable = batch.collections[state["collection"]].searchable
            derived = fields.search_columns(state, searchable).values()
        yield (pk, *texts, *derived, row.get(BASE_VERSION))


def _staged(field: ItemField) -> Callable[[Any], str]:
    """Return what makes the text of a value that is staged."""
    if field.kind == "json" and connection.vendor == "postgresql":
        return _as_json
    return field.to_staging  # as Django stores it: SQLite compares texts


def _as_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def compare(
    rows: Sequence[ItemData], *, record: Callable[[Difference], None] | None = None
) -> Counts:
    """Return what `apply` would do at this moment; change nothing.

    Rows that are only rejected because of what is absent count as created or updated:
    it may come. `record` is called with each item that would be created or changed, by
    id.
    """
    batch = Batch(rows)
    batch.include_absent()
    # A pooler has temporary tables in a transaction; that of SQLite would keep writers.
    is_postgresql = connection.vendor == "postgresql"
    with (
        transaction.atomic() if is_postgresql else nullcontext(),
        connection.cursor() as cursor,
    ):
        given = _given(batch)
        counts = _plan(cursor, batch, given)
        if record and (counts.created or counts.updated):
            for difference in _differences(cursor, given):
                record(difference)
        _drop(cursor)
    absent = {pk: batch.absent[pk] for pk in batch.absent if pk in batch.rows}
    return counts._replace(absent=absent)


def _differences(
    cursor: CursorWrapper, given: Sequence[ItemField]
) -> Iterator[Difference]:
    columns = ", ".join(f"old_{field.name}, {field.name}" for field in given)
    shown = "name" if any(f.name == "name" for f in given) else "old_name"
    sql = f"SELECT id, known, {shown}, {columns} FROM items_plan ORDER BY id"
    cursor.execute(sql)
    for pk, known, name, *values in cursor:
        before, after = {}, {}
        pairs = zip(values[::2], values[1::2], strict=True)
        for field, (old, new) in zip(given, pairs, strict=True):
            if not known or old != new:
                before[field.name] = field.from_staging(old)
                after[field.name] = field.from_staging(new)
        yield Difference(pk, name, before if known else None, after)


@atomic_with_retries
def apply(
    rows: Sequence[ItemData], *, actor: Actor, batch_id: UUID | None = None
) -> Counts:
    """Create and update items so that they are as `rows` say; ids are distinct.

    Fields that a row lacks stay as they are. One transaction, with its entries in the
    change log; left out are rows of an older version of their item, and those that
    break a rule of the catalogue, such as a new item without a name.
    """
    counts = write(Batch(rows, locks=True), actor=actor, batch_id=batch_id)
    if counts.created or counts.updated:
        count(batch_id, created=counts.created, updated=counts.updated)
    return counts


def write(
    batch: Batch,
    *,
    actor: Actor,
    batch_id: UUID | None = None,
    at: datetime | None = None,
) -> Counts:
    """Write what is right of a batch, in its transaction; see `apply`.

    `at` is the time of the changes, if it is that of others too.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Few rows against many: probe the indexes, whatever the statistics say.
            cursor.execute(
                "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "
                "SET LOCAL statement_timeout = 0"
            )
        if batch.rows and batch.known.keys().isdisjoint(batch.rows):
            states = {pk: batch.states[pk] for pk in batch.rows}
            batch.created = creation.create(
                states,
                batch.collections,
                generated=batch.generated,
                actor=actor,
                batch_id=batch_id,
                at=at,
            )
            return Counts(len(states), 0, 0, batch.errors, batch.absent)
        given = _given(batch)
        counts = _plan(cursor, batch, given)
        if counts.created or counts.updated:
            now = connection.ops.adapt_datetimefield_value(at or timezone.now())
            if counts.created:
                _create_items(cursor, given, now)
            if counts.updated:
                _update_items(cursor, batch, given, now)
            names = {field.name for field in given}
            if "tags" in names:
                _write_tags(cursor)
            if "links" in names:
                _write_links(cursor)
            _write_log(cursor, given, now, actor, batch_id)
            invalidate_items(
                (pk, batch.known.get(pk), state) for pk, state in batch.states.items()
            )
        _drop(cursor)
    return counts


def _given(batch: Batch) -> list[ItemField]:
    """Return the fields that any of the rows has: the others stay as they are."""
    names = {name for row in batch.rows.values() for name in row}
    return [field for field in STATE_FIELDS if field.name in names]


def _plan(cursor: CursorWrapper, batch: Batch, given: Sequence[ItemField]) -> Counts:
    """Make the table with what differs; without those fields no row has any of."""
    sql = _dialect()
    _drop(cursor)
    derived = SEARCH_COLUMNS if batch.is_searched else ()
    texts = ("id", *(field.name for field in given), *derived)
    columns = ", ".join(f"{name} text" for name in texts)
    cursor.execute(f"CREATE TEMP TABLE items_stage ({columns}, {BASE_VERSION} bigint)")
    insert_rows(cursor, "items_stage", (*texts, BASE_VERSION), _rows(batch, given))
    planned = [f"s.{name}" for name in derived]
    for field in STATE_FIELDS:
        kind = sql.kinds[field.kind]
        column = f"i.{field.column}" if field.is_column else sql.current_tags
        empty = kind.staged.format(f"'{field.to_staging(field.empty())}'")
        old = f"COALESCE({kind.current.format(column)}, {empty})"
        planned.append(f"{old} AS old_{field.name}")
        if field in given:
            staged = kind.staged.format(f"s.{field.name}")
            planned.append(f"COALESCE({staged}, {old}) AS {field.name}")
    cursor.execute(
        f"""
        CREATE TEMP TABLE items_plan AS
        SELECT s.id, s.{BASE_VERSION}, i.id IS NOT NULL AS known,
               {", ".join(planned)},
               COALESCE(
                   i.version,
                   (SELECT MAX(c.version) FROM items_itemchange c
                    WHERE c.item_id = s.id),
                   0
               ) + 1 AS version
        FROM items_stage s LEFT JOIN items_item i ON i.id = s.id
        """
    )
    unchanged = " AND ".join(f"{f.name} = old_{f.name}" for f in given) or "1 = 1"
    cursor.execute(f"DELETE FROM items_plan WHERE known AND {unchanged}")
    if BASE_VERSION in batch.named:
        batch.reject(_conflicts(cursor))
    cursor.execute(
        "SELECT COUNT(CASE WHEN known THEN NULL ELSE 1 END), "
        "COUNT(CASE WHEN known THEN 1 END) FROM items_plan"
    )
    created, updated = cursor.fetchone()
    unchanged_rows = len(batch.rows) - created - updated
    return Counts(created, updated, unchanged_rows, batch.errors, batch.absent)


def _conflicts(cursor: CursorWrapper) -> dict[str, ItemErrors]:
    """Remove rows of an older version from the plan; return the errors by id."""
    condition = f"known AND {BASE_VERSION} < version - 1"
    cursor.execute(
        f"SELECT id, version - 1, {BASE_VERSION} FROM items_plan WHERE {condition}"
    )
    conflicts = {
        pk: {
            "version": [
                f"Conflict: the item is at version {version}, and this row is made of "
                f"version {base}."
            ]
        }
        for pk, version, base in cursor.fetchall()
    }
    if conflicts:
        cursor.execute(f"DELETE FROM items_plan WHERE {condition}")
    return conflicts


def _planned(field: ItemField, given: Sequence[ItemField]) -> str:
    """Return the column of the plan `p` with what an item is to have."""
    return f"p.{field.name}" if field in given else f"p.old_{field.name}"


def _stored(field: ItemField, given: Sequence[ItemField]) -> str:
    stored = _dialect().kinds[field.kind].stored
    return stored.format(_planned(field, given))


def _create_items(cursor: CursorWrapper, given: Sequence[ItemField], now: Any) -> None:
    derived = ", ".join(SEARCH_COLUMNS)
    columns = ", ".join(field.column for field in COLUMN_FIELDS)
    values = ", ".join(_stored(field, given) for field in COLUMN_FIELDS)
    cursor.execute(
        f"""
        INSERT INTO items_item
            (id, {columns}, version, {derived}, created_at, updated_at)
        SELECT id, {values}, version, {derived}, %s, %s
        FROM items_plan p WHERE NOT known ORDER BY id
        """,
        [now, now],
    )


def _update_items(
    cursor: CursorWrapper, batch: Batch, given: Sequence[ItemField], now: Any
) -> None:
    changed = [f"{f.column} = {_stored(f, given)}" for f in given if f.is_column]
    if batch.is_searched:
        changed += [f"{name} = p.{name}" for name in SEARCH_COLUMNS]
    cursor.execute(
        f"""
        UPDATE items_item
        SET {", ".join([*changed, "version = p.version"])}, updated_at = %s
        FROM items_plan p WHERE p.known AND items_item.id = p.id
        """,
        [now],
    )


def _write_tags(cursor: CursorWrapper) -> None:
    sql = _dialect()
    cursor.execute(
        f"INSERT INTO items_tag (name, description) "
        f"SELECT DISTINCT tag.value, '' FROM items_plan p, {sql.tags} "
        f"WHERE p.tags <> p.old_tags ORDER BY 1 ON CONFLICT DO NOTHING"
    )
    gone = f"""
        SELECT l.id FROM items_plan p
        JOIN items_itemtag l ON l.item_id = p.id JOIN items_tag t ON t.id = l.tag_id
        WHERE p.known AND p.tags <> p.old_tags
          AND NOT EXISTS (SELECT 1 FROM {sql.tags} WHERE tag.value = t.name)
    """
    cursor.execute(f"DELETE FROM items_itemtag WHERE id {sql.one_of.format(gone)}")
    cursor.execute(
        f"INSERT INTO items_itemtag (item_id, tag_id) "
        f"SELECT p.id, t.id FROM items_plan p, {sql.tags} "
        # None, which raises IntegrityError, if a tag was deleted meanwhile.
        f"LEFT JOIN items_tag t ON t.name = tag.value "
        f"WHERE p.tags <> p.old_tags ON CONFLICT DO NOTHING"
    )


def _write_links(cursor: CursorWrapper) -> None:
    sql = _dialect()
    changed = "SELECT id FROM items_plan WHERE known AND links <> old_links"
    one_of = sql.one_of.format(changed)
    cursor.execute(f"DELETE FROM items_itemlink WHERE item_id {one_of}")
    cursor.execute(
        f"INSERT INTO items_itemlink (item_id, relation, target_id) "
        f"SELECT p.id, {sql.relation}, {sql.target} FROM items_plan p, {sql.links} "
        f"WHERE p.links <> p.old_links"
    )


def _write_log(
    cursor: CursorWrapper,
    given: Sequence[ItemField],
    now: Any,
    actor: Actor,
    batch_id: UUID | None,
) -> None:
    before = _state([(f, f"p.old_{f.name}") for f in STATE_FIELDS])
    after = _state([(f, _planned(f, given)) for f in STATE_FIELDS])
    made_by = creation.made_by(actor, batch_id)
    cursor.execute(
        f"""
        INSERT INTO items_itemchange (item_id, version, action, before, after, at,
                                      {", ".join(made_by)})
        SELECT p.id, p.version,
               CASE WHEN known THEN 'updated' ELSE 'created' END,
               CASE WHEN known THEN {before} END,
               {after},
               %s, {", ".join(["%s"] * len(made_by))}
        FROM items_plan p
        """,
        [now, *made_by.values()],
    )


def _state(columns: Sequence[tuple[ItemField, str]]) -> str:
    """Return the SQL of an item's state as JSON, from columns of the plan."""
    sql = _dialect()
    values = []
    for field, column in columns:
        value = sql.kinds[field.kind].in_json.format(column)
        values.append(f"'{field.name}', {value}")
    return f"{sql.json_object}({', '.join(values)})"


def _drop(cursor: CursorWrapper) -> None:
    for table in ("items_plan", "items_stage"):
        cursor.execute(f"DROP TABLE IF EXISTS {table}")


_TAGS = "items_itemtag l JOIN items_tag t ON t.id = l.tag_id WHERE l.item_id = i.id"
_TEXT = Kind("{0}", "{0}")
_KEY = Kind("{0}", "{0}", stored="NULLIF({0}, '')", in_json="NULLIF({0}, '')")

POSTGRESQL = Dialect(
    kinds={
        "text": _TEXT,
        "key": _KEY,
        "date": Kind(
            current="TO_CHAR({0}, 'YYYY-MM-DD')",
            staged="{0}",
            stored="NULLIF({0}, '')::date",
            in_json="NULLIF({0}, '')",
        ),
        "json": Kind("{0}", "({0})::jsonb"),
    },
    current_tags=f'(SELECT JSONB_AGG(t.name ORDER BY t.name COLLATE "C") FROM {_TAGS})',
    tags="JSONB_ARRAY_ELEMENTS_TEXT(p.tags) AS tag(value)",
    links="JSONB_TO_RECORDSET(p.links) AS link(relation text, target text)",
    relation="link.relation",
    target="link.target",
    json_object="JSONB_BUILD_OBJECT",
    # A subquery after IN may run once a row, where statistics say that there are none.
    one_of="= ANY(ARRAY({0}))",
)
SQLITE = Dialect(
    kinds={
        "text": _TEXT,
        "key": _KEY,
        "date": _KEY,
        "json": Kind("JSON({0})", "JSON({0})", in_json="JSON({0})"),
    },
    current_tags=(
        f"(SELECT JSON_GROUP_ARRAY(name) FROM "
        f"(SELECT t.name FROM {_TAGS} ORDER BY t.name))"
    ),
    tags="JSON_EACH(p.tags) AS tag",
    links="JSON_EACH(p.links) AS link",
    relation="link.value ->> 'relation'",
    target="link.value ->> 'target'",
    json_object="JSON_OBJECT",
    one_of="IN ({0})",
)


def _dialect() -> Dialect:
    return POSTGRESQL if connection.vendor == "postgresql" else SQLITE
