"""Writing to the catalogue: REST, pages and admin all call these functions.

Each one is a transaction that changes the item and appends to the change log, or
leaves everything as it was. `items.bulk` does the same in sets, for imports and bulk
writes.
Data comes in as `fields.clean` returns it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime
from itertools import batched
from typing import cast
from uuid import UUID

from django.db import IntegrityError, connection
from django.db.models import F, Max
from django.utils import timezone
from django.utils.encoding import iri_to_uri

from items import fields, integrity, reading
from items.bulk.batches import count
from items.fields import ItemData
from items.integrity import Write
from items.models import (
    Collection,
    Item,
    ItemChange,
    ItemLink,
    ItemTag,
    Tag,
    Versioned,
)
from resilient_site.accounts.actor import Actor
from resilient_site.edge.cache.invalidation import invalidate
from resilient_site.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    NotFound,
    StaleVersion,
)
from resilient_site.observability.request_id import current_own_id, offered_id
from resilient_site.operations.epoch import void_caches_with_commit
from resilient_site.postgres.statements import (
    insert_together,
    update_together,
)
from resilient_site.resilience.transactions import atomic_with_retries

Action = ItemChange.Action
DELETE_BATCH = 1_000
RETAGGED_MAX = 1_000
# Cache tag of all lists of items.
ITEMS = "items"

# What may still hold the contents of an item that was purged.
NOT_PURGED = (
    "backups, and the database's own files until it has reused their space",
    "files and results of jobs, which cannot be searched: delete those jobs",
    "previews, files and rejected rows of imports",
    "responses stored for an Idempotency-Key, for its own client, up to 24 hours",
    "nginx's cache and those of CDNs and browsers: delete them or wait a day",
    "logs, Sentry, and what others have copied or were sent by the broker",
    "items that were merged with it, with what they took over",
)

# Item id, version, action, state before and state after.
type Entry = tuple[str, int, Action, ItemData | None, ItemData | None]


class ItemNotFound(NotFound):
    code = "item_not_found"
    detail = "Item not found"


class ItemDeleted(ItemNotFound):
    status = 410
    code = "item_deleted"
    detail = "Item was deleted"


class ItemExists(AlreadyExists):
    code = "item_exists"
    detail = "Item already exists"


class CollectionNotFound(NotFound):
    code = "collection_not_found"
    detail = "Collection not found"


class ChangePurged(Conflict):
    code = "change_purged"
    detail = "The contents of this change were removed for good: it cannot be undone."


def item_tag(item_id: str) -> str:
    """Return the cache tag of an item, in letters that a header may have."""
    return f"item:{item_id if item_id.isascii() else iri_to_uri(item_id)}"


def collection_tag(key: str) -> str:
    """Return the cache tag of a collection, and of which codes it has."""
    return f"collection:{key}"


def invalidate_items(
    changes: Iterable[tuple[str, ItemData | None, ItemData | None]],
) -> None:
    """Invalidate on commit what was made of these items, or of lists.

    `changes` are ids, each with the state before and after. With a link its target
    changes too, as it is followed in both directions.
    """
    tags, collections = {ITEMS}, set[str]()
    for item_id, before, after in changes:
        states = [state for state in (before, after) if state]
        tags.add(item_tag(item_id))
        places = {(state["collection"], state["code"]) for state in states}
        if len(states) == 1 or len(places) > 1:
            collections.update(key for key, _ in places)
        if any(state["links"] for state in states):
            links = Counter(
                (link["relation"], link["target"])
                for state in states
                for link in state["links"]
            )
            tags.update(item_tag(target) for (_, target), n in links.items() if n == 1)
    invalidate(*tags, *map(collection_tag, collections))


def get_item(item_id: str) -> Item:
    """Raise ItemDeleted if there is none any more, ItemNotFound if there never was."""
    item = reading.find_item(item_id)
    if item is None:
        deleted_at = _deleted_at(item_id)
        if deleted_at is None:
            raise ItemNotFound
        raise ItemDeleted(members={"deleted_at": deleted_at})
    return item


def _deleted_at(item_id: str) -> datetime | None:
    """Return when the item was deleted: a purge may have followed."""
    at = None
    for change in ItemChange.objects.filter(item_id=item_id).order_by("-version")[:2]:
        if change.action not in (Action.DELETED, Action.PURGED):
            break
        at = change.at
    return at


@atomic_with_retries
def create_item(data: ItemData, *, actor: Actor) -> Item:
    """Raise ItemExists if the id is taken, Invalid if it breaks another rule."""
    return _create(integrity.place(data), actor)


# Called with the item when it is locked; raises PreconditionFailed.
type Precondition = Callable[[Item], None]


def expect_revision(revision: str) -> Callable[[Versioned], None]:
    """Return a precondition that is true while the item is at this revision."""

    def check(item: Versioned) -> None:
        if item.revision != revision:
            raise StaleVersion

    return check


@atomic_with_retries
def update_item(
    item_id: str,
    changes: ItemData | Callable[[Item], ItemData],
    *,
    actor: Actor,
    precondition: Precondition | None = None,
) -> Item:
    """Change the fields that `changes` names; without a difference no edit is made.

    `changes` may depend on the item as it is when it is locked. Raises ItemNotFound,
    and what `precondition` raises for the item as it is.
    """
    item = _lock(item_id, precondition)
    before = item.state()
    if callable(changes):
        changes = changes(item)
    after = integrity.change(item_id, before, changes)
    if after == before:
        return item
    write = Write(item_id, before, after)
    current = cast(Collection, item.collection)
    collections = {current.key: current}
    if write.changes("collection"):
        collections = integrity.collections_of([write])
    if errors := integrity.check([write], collections):
        raise Invalid(errors=errors[item_id])
    for field in fields.COLUMN_FIELDS:
        setattr(item, field.column, after[field.name])
    searchable = collections[after["collection"]].searchable
    for name, text in fields.search_columns(after, searchable).items():
        setattr(item, name, text)
    item.version += 1
    item.updated_at = timezone.now()
    changed = {f.name for f in fields.COLUMN_FIELDS if after[f.name] != before[f.name]}
    entry: Entry = (item.pk, item.version, Action.UPDATED, before, after)
    [change] = _changes([entry], actor, at=item.updated_at)
    _save(item, {*changed, *fields.SEARCH_COLUMNS, "version", "updated_at"}, change)
    if after["tags"] != before["tags"]:
        removed = set(before["tags"]) - set(after["tags"])
        ItemTag.objects.filter(item=item, tag__name__in=removed).delete()
        _set_tags([item], {item.pk: after["tags"]})
    if after["links"] != before["links"]:
        ItemLink.objects.filter(item=item).delete()
        _add_links({item.pk: after})
    return item


@atomic_with_retries
def delete_item(
    item_id: str, *, actor: Actor, precondition: Precondition | None = None
) -> ItemChange:
    """Return the change that undoes this when given to `undo`.

    Raises ItemNotFound, ItemReferenced if others refer to the item, and what
    `precondition` raises for it as it is.
    """
    item = _lock(item_id, precondition)
    integrity.expect_unreferenced([item_id])
    before, version = item.state(), item.version + 1
    item.delete()
    return _log([(item_id, version, Action.DELETED, before, None)], actor)[0]


@atomic_with_retries
def delete_items(
    item_ids: Iterable[str], *, actor: Actor, batch_id: UUID | None = None
) -> None:
    """Delete those of the items that exist, all in one transaction.

    Raises ItemReferenced if others than these refer to one of them.
    """
    item_ids = sorted(item_ids)
    integrity.expect_unreferenced(item_ids)
    now = timezone.now()
    for ids in batched(item_ids, DELETE_BATCH):
        rows = Item.objects.for_reading().filter(pk__in=ids).order_by("pk")
        items = list(rows.select_for_update())
        entries: list[Entry] = [
            (item.pk, item.version + 1, Action.DELETED, item.state(), None)
            for item in items
        ]
        Item.objects.filter(pk__in=[item.pk for item in items]).delete()
        _log(entries, actor, at=now, batch_id=batch_id)


@atomic_with_retries
def retag_items(
    name: str, into: str, *, actor: Actor, batch_id: UUID | None = None
) -> int:
    """Give up to RETAGGED_MAX items another tag in place of this; return of how many.

    Each is edited like any other. Repeated until it returns 0, none has the tag.
    """
    rows = Item.objects.tagged([name]).for_reading().order_by("pk")
    items = list(rows.select_for_update(of=("self",), no_key=True)[:RETAGGED_MAX])
    if not items:
        return 0
    entries: list[Entry] = []
    for item in items:
        before = item.state()
        if name in before["tags"]:  # it may have lost it before it was locked
            tags = sorted({*before["tags"], into} - {name})
            after = before | {"tags": tags}
            entries.append((item.pk, item.version + 1, Action.UPDATED, before, after))
    tags_of = {pk: after["tags"] for pk, _, _, _, after in entries if after}
    edited = Item.objects.filter(pk__in=tags_of)
    edited.update(version=F("version") + 1, updated_at=timezone.now())
    ItemTag.objects.filter(item__in=tags_of, tag__name=name).delete()
    _set_tags([item for item in items if item.pk in tags_of], tags_of)
    _log(entries, actor, batch_id=batch_id)
    return len(items)


@atomic_with_retries
def purge_items(item_ids: Iterable[str], *, actor: Actor) -> int:
    """Remove the contents of items for good, deleted ones too; return of how many.

    The change log keeps that each change was made, when and by whom, and gets one more.
    """
    purged: set[str] = set()
    item_ids = sorted(set(item_ids))
    integrity.expect_unreferenced(item_ids)
    for ids in batched(item_ids, DELETE_BATCH):
        rows = Item.objects.filter(pk__in=ids).order_by("pk").select_for_update()
        last = dict(rows.values_list("pk", "version"))
        changes = ItemChange.objects.filter(item_id__in=ids)
        full = changes.exclude(before__isnull=True, after__isnull=True)
        tags = full.values_list("before__tags", "after__tags")
        names = {name for both in tags for some in both for name in some or ()}
        last |= dict(full.values_list("item_id").annotate(Max("version")))
        Item.objects.filter(pk__in=ids).delete()
        full.update(before=None, after=None)
        _log(
            [(pk, last[pk] + 1, Action.PURGED, None, None) for pk in sorted(last)],
            actor,
        )
        # A tag that no item has any more may be part of what had to go.
        Tag.objects.filter(name__in=names, items=None, description="").delete()
        purged |= last.keys()
    void_caches_with_commit()
    return len(purged)


@atomic_with_retries
def merge_items(*, keep: str, drop: str, actor: Actor) -> Item:
    """Make one item of two: `keep`, with the tags of both; `drop` is deleted.

    It takes over what it has no value of its own for, such as the description. Both
    are edits like any other, which can be undone. Raises ItemNotFound, and Invalid if
    they are the same item, or have more tags together than an item may have.
    """
    if keep == drop:
        raise Invalid("An item cannot be merged with itself.")
    rows = Item.objects.for_reading().filter(pk__in=[keep, drop]).order_by("pk")
    items = {item.pk: item for item in rows.select_for_update(of=("self",))}
    if len(items) < 2:
        raise ItemNotFound
    if items[keep].collection_id != items[drop].collection_id:
        raise Invalid("Items of different collections cannot be merged.")
    kept, dropped = items[keep].state(), items[drop].state()
    merged: ItemData = {}
    for field in fields.STATE_FIELDS:
        try:
            merged[field.name] = field.merge(kept[field.name], dropped[field.name])
        except ValueError as error:
            raise Invalid(errors={field.name: [str(error)]}) from error
    merged["links"] = [
        link for link in merged["links"] if link["target"] not in (keep, drop)
    ]
    delete_item(drop, actor=actor)
    return update_item(keep, merged, actor=actor)


@atomic_with_retries
def undo(change: ItemChange, *, actor: Actor) -> Item | None:
    """Restore the item as it was before `change`; None if it did not exist.

    This is an edit like any other, with its own entry in the change log.
    """
    _expect_contents(change)
    exists = Item.objects.filter(pk=change.item_id).exists()
    if change.before is None:
        if exists:
            delete_item(change.item_id, actor=actor)
        return None
    if exists:
        item = update_item(change.item_id, change.before, actor=actor)
    else:
        data = {"id": change.item_id} | change.before
        item = create_item(data, actor=actor)
    # A purge that was faster is seen now; another one waits, or has to start again.
    _expect_contents(change)
    return item


def _expect_contents(change: ItemChange) -> None:
    """Raise ChangePurged if it was purged since it was read."""
    change.refresh_from_db()
    if change.is_purged:
        raise ChangePurged


def _create(data: ItemData, actor: Actor) -> Item:
    """Raise Invalid, or ItemExists."""
    pk, key = data["id"], data["collection"]
    # An id that was deleted continues with the next version.
    collection, last = reading.find_collection_and_last_version(key, pk)
    collections = {key: collection} if collection else {}
    state = integrity.new_state(data, collections)
    if errors := integrity.check([Write(pk, None, state)], collections).get(pk):
        raise (ItemExists if "id" in errors else Invalid)(errors=errors)
    now = timezone.now()
    item = Item(
        id=pk,
        version=last + 1,
        created_at=now,
        updated_at=now,
        **fields.search_columns(state, collections[key].searchable),
        **{f.column: state[f.name] for f in fields.COLUMN_FIELDS},
    )
    entry: Entry = (pk, item.version, Action.CREATED, None, state)
    _insert(item, *_changes([entry], actor, at=now))
    _set_tags([item], {pk: state["tags"]})
    _add_links({pk: state})
    return item


def _insert(item: Item, change: ItemChange) -> None:
    """Raise ItemExists if the id is taken."""
    try:
        if connection.vendor == "postgresql":
            # One round trip: creating an item over REST is a third faster by it.
            insert_together(change, item)
        else:
            item.save(force_insert=True)
            change.save(force_insert=True)
    except IntegrityError as error:
        if _is_about_id(error):
            raise ItemExists from error
        raise  # another writer was faster: the whole write starts again


def _save(item: Item, names: Set[str], change: ItemChange) -> None:
    if connection.vendor == "postgresql":
        update_together(item, names, change)
    else:
        item.save(update_fields=names)
        change.save(force_insert=True)


def _is_about_id(error: IntegrityError) -> bool:
    table = Item._meta.db_table
    diagnostic = getattr(error.__cause__, "diag", None)
    if diagnostic:
        return bool(diagnostic.constraint_name == f"{table}_pkey")
    return str(error).endswith(f" {table}.id")


def _lock(item_id: str, precondition: Precondition | None) -> Item:
    item = reading.lock_item(item_id)
    if item is None:
        raise ItemNotFound
    if precondition:
        precondition(item)
    return item


def _set_tags(items: Iterable[Item], tags_of: dict[str, list[str]]) -> None:
    names = sorted({name for tags in tags_of.values() for name in tags})
    if not names:
        for item in items:
            item.set_loaded_tags([])
        return
    Tag.objects.bulk_create([Tag(name=n) for n in names], ignore_conflicts=True)
    known = {tag.name: tag for tag in Tag.objects.filter(name__in=names)}
    if len(known) < len(names):
        raise IntegrityError("A tag was deleted meanwhile.")  # starts again
    links = []
    for item in items:
        tags = [known[name] for name in tags_of[item.pk]]
        links += [ItemTag(item=item, tag=tag) for tag in tags]
        item.set_loaded_tags(tags)
    ItemTag.objects.bulk_create(links, ignore_conflicts=True)


def _add_links(states: Mapping[str, ItemData]) -> None:
    rows = [
        ItemLink(item_id=pk, relation=link["relation"], target_id=link["target"])
        for pk, state in states.items()
        for link in state["links"]
    ]
    if rows:
        ItemLink.objects.bulk_create(rows)


def _log(
    entries: list[Entry],
    actor: Actor,
    *,
    at: datetime | None = None,
    batch_id: UUID | None = None,
) -> list[ItemChange]:
    changes = _changes(entries, actor, at=at, batch_id=batch_id)
    return ItemChange.objects.bulk_create(changes)


def _changes(
    entries: list[Entry],
    actor: Actor,
    *,
    at: datetime | None = None,
    batch_id: UUID | None = None,
) -> list[ItemChange]:
    """Return entries of the change log; invalidate cached responses on commit.

    `at` is the time that the item has of the change, if it has one.
    """
    request_id, client_request_id = current_own_id(), offered_id()
    at = at or timezone.now()
    invalidate_items((pk, before, after) for pk, _, _, before, after in entries)
    if batch_id:
        actions = Counter(action for _, _, action, _, _ in entries)
        count(
            batch_id,
            created=actions[Action.CREATED],
            updated=actions[Action.UPDATED],
            deleted=actions[Action.DELETED],
        )
    return [
        ItemChange(
            item_id=item_id,
            version=version,
            action=action,
            before=before,
            after=after,
            at=at,
            actor=actor.user,
            actor_name=actor.name,
            request_id=request_id,
            client_request_id=client_request_id,
            batch=batch_id,
        )
        for item_id, version, action, before, after in entries
    ]
