"""Writing to collections: REST, pages, admin and the task call these functions.

A schema is changed in steps, as all items have to conform to it, also those that are
written meanwhile: it is committed as the next one, to which writes conform from then
on; what was being written before comes to its end; all items are looked at; it takes
the place of the other one. A change that is interrupted leaves a next one, which the
next change replaces and `clean_up` removes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypedDict, Unpack
from uuid import UUID

from django.db import DatabaseError, connection, transaction
from django.db.models import F, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Concat
from django.utils import timezone
from uuid_utils.compat import uuid7

from items import rules, search_columns
from items.catalogue import ITEMS, CollectionNotFound, collection_tag
from items.collections import indexes
from items.collections.conformity import OnChunk, broken_items, ignore
from items.collections.schema import (
    Schema,
    clean_schema,
    compile_schema,
    constraints,
)
from items.integrity import ItemErrors
from items.models import Collection, Item
from resilient_site.api.members import clean_members
from resilient_site.edge.cache.invalidation import invalidate
from resilient_site.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    Locked,
)
from resilient_site.resilience import deadlines
from resilient_site.resilience.transactions import atomic_with_retries

# Cache tag of the list of collections.
COLLECTIONS = "collections"
SOURCE_MAX = 500
LICENCE_MAX = 200
# A schema of more items is changed by a job.
ITEMS_AT_ONCE = 5_000
BROKEN_SHOWN = 1_000
# How long others have to end what they began before a schema was introduced.
PATIENCE_S = 5.0
POLL_S = 0.02
# After which nobody can be at it any more who has introduced a schema.
ABANDONED_AFTER = timedelta(hours=2)
# The keyword of JSON Schema that names the attempt, by a UUID with its time.
ATTEMPT = "$comment"
READ_ONLY = ("version", "created_at", "updated_at", "item_count", "has_more_items")

# Other backends of this database with a transaction. That of a writer that has not
# written yet has no number, but is open all the same.
OPEN_TRANSACTIONS = """
    SELECT held.virtualtransaction
    FROM pg_locks AS held JOIN pg_stat_activity AS backend USING (pid)
    WHERE held.locktype = 'virtualxid' AND held.mode = 'ExclusiveLock' AND held.granted
    AND backend.datname = current_database() AND pid <> pg_backend_pid()
    AND backend.backend_type = 'client backend'
"""

type OnBroken = Callable[[str, ItemErrors], None]
type Data = dict[str, Any]


class Introduction(TypedDict, total=False):
    """Options of `introduced`."""

    items_max: int | None
    patience_s: float
    on_chunk: OnChunk
    on_broken: OnBroken


# Called with the collection when it is locked; raises PreconditionFailed.
type Precondition = Callable[[Collection], None]


class CollectionExists(AlreadyExists):
    code = "collection_exists"
    detail = "Collection already exists"


class CollectionInUse(Conflict):
    code = "collection_in_use"
    detail = "The collection has items. Delete them, or move them to another one first."


class SchemaBreaksItems(Conflict):
    code = "schema_breaks_items"
    detail = "Items do not conform to the schema. Nothing was changed."


class SchemaNeedsJob(Conflict):
    code = "schema_needs_job"
    detail = (
        f"The collection has more than {ITEMS_AT_ONCE:,} items: submit a job of the "
        "task change_schema with this schema."
    )


class SchemaSuperseded(Conflict):
    detail = "Another schema was introduced meanwhile. Nothing was changed."
    is_outcome = False


class OthersAreWriting(Locked):
    detail = (
        "Transactions that began before the change of the schema have not ended. "
        "Nothing was changed. Please try again."
    )


# --- what is sent

_CLEANERS: dict[str, Callable[[Any], Any]] = {
    "key": rules.clean_key,
    "name": partial(rules.clean_line, max_length=rules.NAME_MAX, required=True),
    "description": partial(rules.clean_text, max_length=rules.DESCRIPTION_MAX),
    "schema": clean_schema,
    "source": partial(rules.clean_line, max_length=SOURCE_MAX, required=False),
    "licence": partial(rules.clean_line, max_length=LICENCE_MAX, required=False),
}
REQUIRED = ("key", "name")
EMPTY: Data = {"description": "", "schema": {}, "source": "", "licence": ""}


def clean(raw: Any, *, partial: bool = False, ignores_unknown: bool = False) -> Data:
    """Return what `raw` has cleaned; raise Invalid with all that breaks a rule."""
    return clean_members(
        raw,
        _CLEANERS,
        what="A collection",
        required=() if partial else REQUIRED,
        known=None if ignores_unknown else {*_CLEANERS, *READ_ONLY},
    )


# --- writing


def get_collection(key: str) -> Collection:
    """Raise CollectionNotFound if there is none."""
    found = Collection.objects.filter(pk=key).first()
    if found is None:
        raise CollectionNotFound
    return found


@atomic_with_retries
def create_collection(data: Data) -> Collection:
    """Raise CollectionExists if the key is taken."""
    if Collection.objects.filter(pk=data["key"]).exists():
        raise CollectionExists(errors={"key": [CollectionExists.detail]})
    collection = Collection(**EMPTY | data)
    _expect_targets(collection.schema, collection.key)
    collection.save(force_insert=True)
    invalidate(COLLECTIONS, collection_tag(collection.key))
    _keep_indexes(collection)
    return collection


def change_collection(
    key: str,
    changes: Data,
    *,
    precondition: Precondition | None = None,
    **options: Unpack[Introduction],
) -> Collection:
    """Change a collection, also its schema; outside of a transaction."""
    with introduced(key, changes, precondition=precondition, **options) as attempt:
        return update_collection(
            key, changes, precondition=precondition, attempt=attempt
        )


@atomic_with_retries
def update_collection(
    key: str,
    changes: Data,
    *,
    precondition: Precondition | None = None,
    attempt: str = "",
) -> Collection:
    """Change what `changes` names; `attempt` has to have introduced the schema.

    Raises CollectionNotFound, and what `precondition` raises for it as it is.
    """
    collection = _lock(key, precondition)
    if changes.get("key", key) != key:
        raise Invalid(errors={"key": ["The key of a collection cannot be changed."]})
    if all(getattr(collection, name) == changes[name] for name in changes):
        return collection
    has_new_schema = changes.get("schema", collection.schema) != collection.schema
    if has_new_schema:
        _adopt(collection, changes["schema"], attempt)
    for name in changes.keys() - {"schema"}:
        setattr(collection, name, changes[name])
    collection.version += 1
    collection.updated_at = timezone.now()
    collection.save()
    invalidate(COLLECTIONS, collection_tag(key))
    if has_new_schema:
        _keep_indexes(collection)
    return collection


@atomic_with_retries
def delete_collection(key: str, *, precondition: Precondition | None = None) -> None:
    """Raise CollectionInUse if it has items, or if another schema refers to it."""
    collection = _lock(key, precondition, is_ending=True)
    expect_unused(collection)
    _keep_indexes(collection)
    collection.delete()
    invalidate(COLLECTIONS, collection_tag(key))


def expect_unused(collection: Collection) -> None:
    """Raise CollectionInUse with the reason for which it cannot be deleted."""
    key = collection.key
    if key == rules.GENERAL:
        raise CollectionInUse("Items that name no collection are in this one.")
    if collection.items.exists():
        raise CollectionInUse
    for other in Collection.objects.exclude(pk=key):
        if any(key in schema.references.values() for schema in other.schemas):
            raise CollectionInUse(f"The schema of “{other.key}” refers to it.")


def _lock(
    key: str, precondition: Precondition | None = None, *, is_ending: bool = False
) -> Collection:
    # Others may go on adding items, unless it ends.
    rows = Collection.objects.select_for_update(no_key=not is_ending)
    collection = rows.filter(pk=key).first()
    if collection is None:
        raise CollectionNotFound
    if precondition:
        precondition(collection)
    return collection


def _keep_indexes(collection: Collection) -> None:
    """Make and drop indexes once this is committed; a job does so of many items."""
    if not _has_more(collection, ITEMS_AT_ONCE):
        keep = partial(indexes.synchronize, PATIENCE_S)
        transaction.on_commit(keep, robust=True)


def _expect_targets(schema: Schema, key: str) -> None:
    """Raise Invalid if a reference is to no collection; keep those it is to."""
    references = compile_schema(schema).references
    targets = set(references.values()) - {key}
    rows = Collection.objects.filter(pk__in=targets).order_by("pk")
    known = {key, *rows.select_for_update(no_key=True).values_list("pk", flat=True)}
    errors = {
        f"properties.{name}.x-reference": [f"There is no collection “{target}”."]
        for name, target in references.items()
        if target not in known
    }
    if errors:
        raise Invalid(errors={"schema": errors})


# --- changing a schema


@contextmanager
def introduced(
    key: str,
    changes: Data,
    *,
    precondition: Precondition | None = None,
    items_max: int | None = ITEMS_AT_ONCE,
    patience_s: float = PATIENCE_S,
    on_chunk: OnChunk = ignore,
    on_broken: OnBroken = ignore,
) -> Iterator[str]:
    """Have items conform to the schema in `changes`, if any, while the block adopts it.

    Yields what names the attempt. Outside of a transaction. Raises OthersAreWriting,
    SchemaBreaksItems, and SchemaNeedsJob if there are more than `items_max` items.
    """
    attempt = ""
    if "schema" in changes:
        attempt = _introduce(key, changes["schema"], precondition, items_max)
    if not attempt:
        yield attempt
        return
    try:
        _await_others(patience_s)
        expect_conformity(key, changes["schema"], on_chunk, on_broken)
        yield attempt
    finally:
        _withdraw(key, attempt)
    # Marked when the schema was adopted; what is left over clean_up renews.
    with suppress(DatabaseError), deadlines.within(PATIENCE_S):
        search_columns.renew(for_s=PATIENCE_S)


@atomic_with_retries
def _introduce(
    key: str, schema: Schema, precondition: Precondition | None, items_max: int | None
) -> str:
    """Return the name of the attempt; empty if what conforms stays the same."""
    collection = _lock(key, precondition)
    if constraints(schema) == constraints(collection.schema):
        return ""
    if items_max is not None and _has_more(collection, items_max):
        raise SchemaNeedsJob
    _expect_targets(schema, key)
    attempt = str(uuid7())
    collection.next_schema = {**schema, ATTEMPT: attempt}
    collection.save(update_fields=["next_schema"])
    return attempt


def _has_more(collection: Collection, number: int) -> bool:
    return collection.items.order_by()[number : number + 1].exists()


def _await_others(patience_s: float) -> None:
    """Wait for the transactions that may not have seen what was introduced."""
    if connection.vendor != "postgresql":
        return  # it was committed when no other one was writing
    until = time.monotonic() + patience_s
    waiting = _open_transactions()
    while waiting:
        if time.monotonic() > until or deadlines.is_expired():
            raise OthersAreWriting
        time.sleep(POLL_S)
        waiting &= _open_transactions()


def _open_transactions() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(OPEN_TRANSACTIONS)
        return {row[0] for row in cursor.fetchall()}


def expect_conformity(
    key: str,
    schema: Schema,
    on_chunk: OnChunk = ignore,
    on_broken: OnBroken = ignore,
) -> None:
    """Raise SchemaBreaksItems with the items that break the schema."""
    shown: dict[str, ItemErrors] = {}
    broken = set()
    for item_id, errors in broken_items(key, schema, on_chunk):
        broken.add(item_id)
        on_broken(item_id, errors)
        if item_id in shown:
            shown[item_id]["attributes"] |= errors["attributes"]
        elif len(shown) < BROKEN_SHOWN:
            shown[item_id] = errors
    if broken:
        items = [{"id": pk, "errors": errors} for pk, errors in shown.items()]
        raise SchemaBreaksItems(members={"count": len(broken), "items": items})


def _adopt(collection: Collection, schema: Schema, attempt: str) -> None:
    """Set the schema that was introduced, and mark the search texts that it changes."""
    if constraints(schema) != constraints(collection.schema):
        if collection.next_schema != {**schema, ATTEMPT: attempt}:
            raise SchemaSuperseded
        collection.next_schema = None
    before, after = map(compile_schema, (collection.schema, schema))
    collection.schema = schema
    is_searched_as_before = {*before.searchable} == {*after.searchable}
    if not is_searched_as_before and not _has_more(collection, ITEMS_AT_ONCE):
        # Without the mark at its beginning it is one of those to be renewed.
        unmarked = Concat(Value(" "), F("search_text"))
        Item.objects.filter(collection=collection).update(search_text=unmarked)
    invalidate(ITEMS)


@atomic_with_retries
def _withdraw(key: str, attempt: str) -> None:
    """Remove what this attempt has introduced, if it was not adopted or replaced."""
    rows = Collection.objects.select_for_update(no_key=True)
    collection = rows.filter(pk=key).first()
    if (
        collection
        and collection.next_schema
        and collection.next_schema[ATTEMPT] == attempt
    ):
        collection.next_schema = None
        collection.save(update_fields=["next_schema"])


def withdraw_abandoned() -> int:
    """Remove what was introduced by those who were interrupted; return how many."""
    number = 0
    rows = Collection.objects.filter(next_schema__isnull=False)
    for key, attempt in rows.values_list(
        "pk", KeyTextTransform(ATTEMPT, "next_schema")
    ):
        at = datetime.fromtimestamp((UUID(attempt).int >> 80) / 1000, UTC)
        if at < timezone.now() - ABANDONED_AFTER:
            _withdraw(key, attempt)
            number += 1
    return number
