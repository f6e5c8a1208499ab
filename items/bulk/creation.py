"""Writing of many items that are all new: straight into their tables."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import IntegrityError, connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from items import fields
from items.bulk.rows import insert_rows, is_any, texts
from items.catalogue import invalidate_items
from items.fields import COLUMN_FIELDS, SEARCH_COLUMNS, ItemData
from items.models import Collection, ItemChange, Tag
from resilient_site.accounts.actor import Actor
from resilient_site.observability.request_id import current_own_id, offered_id

NAMES = [field.name for field in COLUMN_FIELDS]
JSON_PLACES = [n for n, field in enumerate(COLUMN_FIELDS) if field.kind == "json"]
ITEM_COLUMNS = (
    "id", *(field.column for field in COLUMN_FIELDS), *SEARCH_COLUMNS,
    "version", "created_at", "updated_at",
)  # fmt: skip
# Those of which each row has its own; for the others see `made_by`.
CHANGE_COLUMNS = ("item_id", "version", "action", "after", "at")


def create(
    states: Mapping[str, ItemData],
    collections: Mapping[str, Collection],
    *,
    generated: Set[str],
    actor: Actor,
    batch_id: UUID | None,
    at: datetime | None = None,
) -> dict[str, ItemData]:
    """Create items with these states, by id, of which none exists.

    `generated` are ids which no item has ever had. Returns what the catalogue itself
    records of them. Raises IntegrityError if another writer has created one meanwhile.
    """
    at = at or timezone.now()
    # As text: it is the same for all rows.
    now = str(connection.ops.adapt_datetimefield_value(at))
    by = made_by(actor, batch_id)
    versions = dict.fromkeys(states, 1) | _next_versions(states.keys() - generated)

    def items() -> Iterator[tuple[Any, ...]]:
        # In the order of the ids, so that two writers of the same wait, not deadlock.
        for pk in sorted(states):
            state = states[pk]
            searchable = collections[state["collection"]].searchable
            search = fields.search_columns(state, searchable)
            columns = [state[name] for name in NAMES]
            for place in JSON_PLACES:
                columns[place] = _as_json(columns[place])
            yield (pk, *columns, *search.values(), versions[pk], now, now)

    def changes() -> Iterator[tuple[Any, ...]]:
        for pk in sorted(states):
            after = orjson.dumps(states[pk]).decode()
            yield (pk, versions[pk], "created", after, now, *by.values())

    with connection.cursor() as cursor:
        insert_rows(cursor, "items_item", ITEM_COLUMNS, items())
        insert_rows(cursor, "items_itemchange", (*CHANGE_COLUMNS, *by), changes())
        if tags := {pk: state["tags"] for pk, state in states.items() if state["tags"]}:
            _add_tags(cursor, tags)
        links = [
            (pk, link["relation"], link["target"])
            for pk, state in states.items()
            for link in state["links"]
        ]
        if links:
            names = ("item_id", "relation", "target_id")
            insert_rows(cursor, "items_itemlink", names, links)
    invalidate_items((pk, None, state) for pk, state in states.items())
    return {
        pk: {"version": version, "created_at": at, "updated_at": at}
        for pk, version in versions.items()
    }


def _as_json(value: Any) -> str:
    """Return the text that Django stores, as SQLite compares texts."""
    return json.dumps(value) if value else str(value)  # most are [] or {}


def made_by(actor: Actor, batch_id: UUID | None) -> dict[str, Any]:
    """Return the columns of the change log that are the same for all of its rows."""
    batch = ItemChange._meta.get_field("batch")
    return {
        "actor_id": actor.user.pk if actor.user else None,
        "actor_name": actor.name,
        "request_id": current_own_id(),
        "client_request_id": offered_id(),
        "batch": batch.get_db_prep_value(batch_id, connection),
    }


def _next_versions(item_ids: Set[str]) -> dict[str, int]:
    """Return the versions with which ids continue that were deleted."""
    if not item_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT item_id, MAX(version) + 1 FROM items_itemchange "
            f"WHERE item_id {is_any()} GROUP BY item_id",
            [texts(item_ids)],
        )
        return dict(cursor.fetchall())


def _add_tags(cursor: CursorWrapper, tags: Mapping[str, Sequence[str]]) -> None:
    """Raise IntegrityError if a tag was deleted meanwhile."""
    names = sorted({name for given in tags.values() for name in given})
    Tag.objects.bulk_create([Tag(name=n) for n in names], ignore_conflicts=True)
    known = dict(Tag.objects.filter(name__in=names).values_list("name", "pk"))
    if len(known) < len(names):
        raise IntegrityError("A tag was deleted meanwhile.")  # starts again
    rows = [(pk, known[name]) for pk, given in tags.items() for name in given]
    insert_rows(cursor, "items_itemtag", ("item_id", "tag_id"), rows)
