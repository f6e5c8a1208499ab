"""Writing to the catalogue: every way in (REST, pages, admin) calls these functions.

Each one is a transaction that changes the item and appends to the change log, or
leaves everything as it was. `items.imports.staging` does the same for imports, in sets.
Data comes in as `rules.clean` returns it.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import batched
from typing import Any, cast

from django.db import IntegrityError, connection
from django.db.models import Max, Model, OuterRef, StringAgg, Subquery, Value
from django.utils import timezone
from uuid_utils.compat import uuid7

from items import rules
from items.models import Item, ItemChange, ItemTag, Tag
from items.rules import ItemData
from resilient_site.accounts.actor import Actor
from resilient_site.edge.cache.invalidation import invalidate
from resilient_site.errors import AlreadyExists, Invalid, NotFound, StaleVersion
from resilient_site.observability.request_id import current_request_id
from resilient_site.postgres.multi_table_insert import insert_together
from resilient_site.resilience.transactions import atomic_with_retries

Action = ItemChange.Action
DELETED_AT_ONCE = 1_000
# Names all lists of items to those who keep copies of them.
ITEMS = "items"


class ItemNotFound(NotFound):
    code = "item_not_found"
    detail = "Item not found"


class ItemExists(AlreadyExists):
    code = "item_exists"
    detail = "Item already exists"


class NothingCreated(Invalid):
    detail = "Nothing was created."
    is_outcome = True


def item_tag(item_id: str) -> str:
    """Name an item to those who keep copies of it."""
    return f"item:{item_id}"


def note_changes(item_ids: Iterable[str]) -> None:
    """Let no copy of these items, or of a list, be taken for current any more."""
    invalidate(ITEMS, *map(item_tag, item_ids))


def new_id() -> str:
    """Return an id for an item that was given none: unique, and sorted by time."""
    return str(uuid7())


def get_item(item_id: str) -> Item:
    """Return the item with its tags. Raises ItemNotFound if there is none."""
    sql, params = _query_of_one_item()
    for item in Item.objects.raw(sql, [*params, item_id]):
        names: str = vars(item)["tag_names_in_row"] or ""
        item.set_loaded_tags([Tag(name=name) for name in names.split()])
        return item
    raise ItemNotFound


@cache
def _query_of_one_item() -> tuple[str, tuple[object, ...]]:
    """Return the SQL, and its parameters before the id.

    Compiled once: to make it anew, and to fetch the tags by a second query, takes six
    times as long as to run it, and every read that no cache answers needs it.
    """
    names = (
        ItemTag.objects.filter(item=OuterRef("pk"))
        .values("item")
        .annotate(names=StringAgg("tag__name", Value(" ")))
        .values("names")
    )
    rows = Item.objects.defer("search_text").annotate(tag_names_in_row=Subquery(names))
    sql, params = rows.filter(pk="").query.sql_with_params()
    return sql, params[:-1]


@atomic_with_retries
def create_item(data: ItemData, *, actor: Actor) -> Item:
    """Raise ItemExists if the id is taken."""
    return _create([data], actor)[0]


@atomic_with_retries
def create_items(rows: Sequence[ItemData], *, actor: Actor) -> list[Item]:
    """Create all of `rows` or none.

    Raises NothingCreated with the errors by index if ids are taken or given twice.
    """
    ids = [row["id"] for row in rows if "id" in row]
    taken = set(Item.objects.filter(pk__in=ids).values_list("pk", flat=True))
    errors: dict[str, Any] = {}
    for index, row in enumerate(rows):
        if row.get("id") in taken:
            errors[str(index)] = {"id": [ItemExists.detail]}
        taken.add(row.get("id", ""))
    if errors:
        raise NothingCreated(errors=errors)
    return _create(rows, actor)


@atomic_with_retries
def update_item(
    item_id: str,
    changes: ItemData,
    *,
    actor: Actor,
    versions: Iterable[int] | None = None,
) -> Item:
    """Change the fields that `changes` names; no edit is counted if none differs.

    Raises ItemNotFound, and StaleVersion if the item is at none of `versions`.
    """
    item = _lock(item_id, versions)
    before = item.state()
    after = before | {f: v for f, v in changes.items() if f in before}
    if after == before:
        return item
    item.name, item.description = after["name"], after["description"]
    item.search_text = rules.search_text(item.name, item.description)
    item.version += 1
    item.updated_at = timezone.now()
    item.save()
    if after["tags"] != before["tags"]:
        _set_tags({item.pk: after["tags"]}, replace=True)
        item = get_item(item.pk)
    _log([(item.pk, item.version, Action.UPDATED, before, after)], actor)
    return item


@atomic_with_retries
def delete_item(
    item_id: str, *, actor: Actor, versions: Iterable[int] | None = None
) -> ItemChange:
    """Return the change that undoes this when given to `undo`.

    Raises ItemNotFound, and StaleVersion if the item is at none of `versions`.
    """
    item = _lock(item_id, versions)
    before, version = item.state(), item.version + 1
    item.delete()
    return _log([(item_id, version, Action.DELETED, before, None)], actor)[0]


@atomic_with_retries
def delete_items(item_ids: Iterable[str], *, actor: Actor) -> None:
    """Delete those of the items that are there, all in one transaction."""
    for ids in batched(sorted(item_ids), DELETED_AT_ONCE):
        rows = Item.objects.for_reading().filter(pk__in=ids).order_by("pk")
        items = list(rows.select_for_update())
        gone: list[Entry] = [
            (item.pk, item.version + 1, Action.DELETED, item.state(), None)
            for item in items
        ]
        Item.objects.filter(pk__in=[item.pk for item in items]).delete()
        _log(gone, actor)


@atomic_with_retries
def merge_items(*, keep: str, drop: str, actor: Actor) -> Item:
    """Make one item of two: `keep`, with the tags of both; `drop` is deleted.

    It takes over the other's description if it has none of its own. Both are edits
    like any other, which can be undone. Raises ItemNotFound, and Invalid if they are
    one, or have more tags together than an item may have.
    """
    if keep == drop:
        raise Invalid("An item cannot be merged with itself.")
    rows = Item.objects.for_reading().filter(pk__in=[keep, drop]).order_by("pk")
    items = {item.pk: item for item in rows.select_for_update(of=("self",))}
    if len(items) < 2:
        raise ItemNotFound
    kept, dropped = items[keep].state(), items[drop].state()
    try:
        tags = rules.clean_tags([*kept["tags"], *dropped["tags"]])
    except ValueError as error:
        raise Invalid(errors={"tags": [str(error)]}) from error
    description = kept["description"] or dropped["description"]
    delete_item(drop, actor=actor)
    return update_item(keep, {"description": description, "tags": tags}, actor=actor)


@atomic_with_retries
def undo(change: ItemChange, *, actor: Actor) -> Item | None:
    """Put the item back to what it was before `change`; None if it did not exist.

    This is an edit like any other: it has its place in the change log.
    """
    exists = Item.objects.filter(pk=change.item_id).exists()
    if change.before is None:
        if exists:
            delete_item(change.item_id, actor=actor)
        return None
    if exists:
        return update_item(change.item_id, change.before, actor=actor)
    state = cast(ItemData, {"id": change.item_id} | change.before)
    return create_item(state, actor=actor)


def _create(rows: Sequence[ItemData], actor: Actor) -> list[Item]:
    last = _last_versions([row["id"] for row in rows if "id" in row])
    ids = [row["id"] if "id" in row else new_id() for row in rows]
    now = timezone.now()
    items = []
    for pk, row in zip(ids, rows, strict=True):
        description = row.get("description", "")
        items.append(
            Item(
                id=pk,
                name=row["name"],
                description=description,
                version=last.get(pk, 0) + 1,
                created_at=now,
                updated_at=now,
                search_text=rules.search_text(row["name"], description),
            )
        )
        items[-1].has_no_tags()
    tags_of = {pk: row.get("tags", []) for pk, row in zip(ids, rows, strict=True)}
    # By id, so that two that create the same ones wait, and do not deadlock.
    in_order = sorted(items, key=lambda item: item.pk)
    entries: list[Entry] = [
        (item.pk, item.version, Action.CREATED, None, _new_state(item, tags_of))
        for item in in_order
    ]
    _insert(in_order, _changes(entries, actor))
    if any(tags_of.values()):
        _set_tags(tags_of)
        created = Item.objects.for_reading().in_bulk(ids)
        items = [created[pk] for pk in ids]
    return items


def _new_state(item: Item, tags_of: dict[str, list[str]]) -> dict[str, Any]:
    return item.state() | {"tags": sorted(tags_of[item.pk])}


def _insert(items: list[Item], changes: list[ItemChange]) -> None:
    """Raise ItemExists if an id is taken."""
    try:
        if len(items) == 1 and connection.vendor == "postgresql":
            insert_together(*changes, *items)
        else:
            Item.objects.bulk_create(items)
            ItemChange.objects.bulk_create(changes)
    except IntegrityError as error:
        if _is_about(error, Item):
            raise ItemExists from error
        raise  # another one was faster, and this is begun anew


def _is_about(error: IntegrityError, model: type[Model]) -> bool:
    table = model._meta.db_table
    diagnostic = getattr(error.__cause__, "diag", None)
    return diagnostic.table_name == table if diagnostic else f" {table}." in str(error)


def _last_versions(ids: list[str]) -> dict[str, int]:
    """Return those of items that were there before: a new one goes on from there."""
    if not ids:
        return {}
    changes = ItemChange.objects.filter(item_id__in=ids).values("item_id")
    last = changes.annotate(version=Max("version"))
    return dict(last.values_list("item_id", "version"))


def _lock(item_id: str, versions: Iterable[int] | None) -> Item:
    item = (
        Item.objects.for_reading()
        .select_for_update(of=("self",))
        .filter(pk=item_id)
        .first()
    )
    if item is None:
        raise ItemNotFound
    if versions is not None and item.version not in versions:
        raise StaleVersion
    return item


def _set_tags(tags_of: dict[str, list[str]], *, replace: bool = False) -> None:
    names = {name for tags in tags_of.values() for name in tags}
    if replace:
        ItemTag.objects.filter(item__in=tags_of).exclude(tag__name__in=names).delete()
    if not names:
        return
    Tag.objects.bulk_create([Tag(name=n) for n in sorted(names)], ignore_conflicts=True)
    ids = dict(Tag.objects.filter(name__in=names).values_list("name", "pk"))
    ItemTag.objects.bulk_create(
        (
            ItemTag(item_id=item_id, tag_id=ids[name])
            for item_id, tags in tags_of.items()
            for name in tags
        ),
        ignore_conflicts=True,
    )


type Entry = tuple[str, int, Action, dict[str, Any] | None, dict[str, Any] | None]


def _log(entries: list[Entry], actor: Actor) -> list[ItemChange]:
    return ItemChange.objects.bulk_create(_changes(entries, actor))


def _changes(entries: list[Entry], actor: Actor) -> list[ItemChange]:
    """Return what the change log is to say, and tell those who keep copies."""
    request_id, now = current_request_id(), timezone.now()
    note_changes(item_id for item_id, *_ in entries)
    return [
        ItemChange(
            item_id=item_id,
            version=version,
            action=action,
            before=before,
            after=after,
            at=now,
            actor=actor.user,
            actor_name=actor.name,
            request_id=request_id,
        )
        for item_id, version, action, before, after in entries
    ]
