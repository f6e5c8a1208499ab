"""Conflicts of an undo: items that cannot be as they were before a batch."""

from collections.abc import Iterable, Iterator
from itertools import batched
from typing import Any, NamedTuple

import orjson
from django.db import connection
from django.db.models import Exists, Max, OuterRef, Q, QuerySet, TextField
from django.db.models.functions import Cast

from items import integrity
from items.bulk.rows import is_any, texts
from items.field_types import public_id
from items.fields import ItemData
from items.models import ChangeBatch, ItemChange
from resilient_site.errors import Conflict

CONFLICTS_SHOWN = 100
CHECKED_AT_ONCE = 5_000
PURGED = "Its contents were removed for good."


class Step(NamedTuple):
    """What is to be undone of one item: the state before, and the one it left.

    As JSON, as most are not looked into; None where there is no item.
    """

    version: int
    before: str | None
    after: str | None
    is_purged: bool = False


class Reason(NamedTuple):
    code: str
    detail: str
    version: int  # that the batch has made


# By the id of the item.
type Conflicts = dict[str, Reason]


class ItemConflict(NamedTuple):
    """An item that cannot be as it was, and its version now."""

    item_id: str
    reason: Reason
    version_now: int
    changed_by: str

    def as_json(self) -> dict[str, Any]:
        return {
            "id": public_id(self.item_id),
            "code": self.reason.code,
            "detail": self.reason.detail,
            "version": self.reason.version,
            "version_now": self.version_now,
            "changed_by": self.changed_by,
        }


class BatchChangedSince(Conflict):
    code = "batch_changed_since"
    detail = (
        "Some of its items cannot be as they were before. Nothing was changed. To undo "
        "the others, send `skip_conflicts`."
    )

    def __init__(self, conflicts: "Conflicts | None" = None) -> None:
        conflicts = conflicts or {}
        shown = describe(conflicts, CONFLICTS_SHOWN)
        items = [conflict.as_json() for conflict in shown]
        super().__init__(members={"items": items, "count": len(conflicts)})
        self.conflicts, self.found = shown, conflicts


def steps_of(changes: QuerySet[ItemChange]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    states = (Cast(name, TextField()) for name in ("before", "after"))
    rows = changes.order_by("item_id", "version")
    for pk, version, before, after in rows.values_list("item_id", "version", *states):
        first = steps.get(pk)
        steps[pk] = Step(
            version,
            first.before if first else before,
            after,
            before is after is None or bool(first and first.is_purged),
        )
    return steps


def parsed(state: str | None) -> ItemData | None:
    return None if state is None else orjson.loads(state)


def leave_out(steps: dict[str, Step], conflicts: Conflicts) -> None:
    for pk in conflicts:
        steps.pop(pk, None)


def to_delete(steps: dict[str, Step]) -> list[str]:
    return [pk for pk, s in steps.items() if s.before is None and s.after is not None]


def find_conflicts(batch: ChangeBatch) -> Conflicts:
    """Return the items of a batch of any size that were changed since.

    Or cannot be deleted, as others refer to them.
    """
    conflicts: Conflicts = {}
    for found in batched(_changed_by_others(batch), CHECKED_AT_ONCE):
        ids = [pk for pk, _, _ in found]
        steps = steps_of(batch.changes_in_log().filter(item_id__in=ids))
        conflicts |= changed_since(batch, steps)
    earlier = batch.changes_in_log().filter(
        item_id=OuterRef("item_id"), version__lt=OuterRef("version")
    )
    created = batch.changes_in_log().filter(~Exists(earlier), action="created")
    versions_of = created.values_list("item_id", "version").iterator()
    touched = batch.changes_in_log()

    def is_outside(column: str) -> Any:
        return ~Exists(touched.filter(item_id=OuterRef(column)))

    for some in batched(versions_of, CHECKED_AT_ONCE):
        versions = dict(some)
        referrers = integrity.referrers([*versions], is_outside)
        for pk in referrers.keys() - conflicts:
            conflicts[pk] = _reason(*referrers[pk], versions[pk])
    return conflicts


def referred_to(steps: dict[str, Step]) -> Conflicts:
    """Return the items that cannot be deleted, as others than these refer to them."""
    own = list(steps)
    found = integrity.referrers(
        to_delete(steps), lambda column: ~Q(**{f"{column}__in": own})
    )
    return {pk: _reason(*found[pk], steps[pk].version) for pk in found}


def _reason(referrer: str, field: str, version: int) -> Reason:
    detail = f"The item “{referrer}” refers to it by {field}."
    return Reason("item_referenced", detail, version)


def changed_since(
    batch: ChangeBatch, steps: dict[str, Step], undo: ChangeBatch | None = None
) -> Conflicts:
    """Return the items that are not as the batch has left them, or not by it alone.

    Drops the steps of items that are as before already, or that `undo` has left out
    when it undid later changes.
    """
    if not steps:
        return {}
    conflicts = {
        pk: _changed(steps[pk].version)
        for pk, first, last in _changed_by_others(batch, list(steps))
        if first < last
    }
    purged = {
        pk: Reason("purged", PURGED, step.version)
        for pk, step in steps.items()
        if step.is_purged
    }
    return conflicts | _left_otherwise(batch, steps, conflicts | purged, undo) | purged


def _changed(version: int) -> Reason:
    return Reason("changed_since", "It was changed since.", version)


def _changed_by_others(
    batch: ChangeBatch, item_ids: list[str] | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yield the ids of items that others have changed since the batch first did.

    Each with their first version, and the last one of the batch.
    """
    own = ItemChange._meta.get_field("batch").get_db_prep_value(batch.pk, connection)
    among, params = "", [own, own]
    if item_ids is not None:
        among, params = f"AND item_id {is_any()}", [own, own, texts(item_ids)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT item_id, other, last FROM (
                SELECT item_id, last, (
                    SELECT MIN(c.version) FROM items_itemchange c
                    WHERE c.item_id = t.item_id AND c.version > t.first
                        AND (c.batch IS NULL OR c.batch <> %s)
                ) AS other
                FROM (
                    SELECT item_id, MIN(version) AS first, MAX(version) AS last
                    FROM items_itemchange WHERE batch = %s {among} GROUP BY item_id
                ) t
            ) found WHERE other IS NOT NULL
            """,
            params,
        )
        yield from cursor.fetchall()


def _left_otherwise(
    batch: ChangeBatch,
    steps: dict[str, Step],
    known: Conflicts,
    undo: ChangeBatch | None,
) -> Conflicts:
    own = [pk for pk in steps if pk not in known]
    changes = ItemChange.objects.filter(item_id__in=own).values_list("item_id")
    versions = changes.annotate(Max("version"))
    later = [pk for pk, last in versions if last != steps[pk].version]
    left_out = _left_out(batch, later, undo) if undo and undo.position else set()
    conflicts: Conflicts = {}
    for change in _latest(later):
        pk, step = change.item_id, steps[change.item_id]
        is_as_left = change.after == parsed(step.after)
        if pk in left_out and not (is_as_left and change.batch == batch.pk):
            del steps[pk]
        elif is_as_left:
            continue
        elif change.after == parsed(step.before):
            del steps[pk]
        else:
            conflicts[pk] = _changed(step.version)
    return conflicts


def _left_out(batch: ChangeBatch, item_ids: list[str], undo: ChangeBatch) -> set[str]:
    """Return the items of which `undo` has left out later changes."""
    gone_through = batch.changes_in_log().filter(pk__gte=undo.position)
    both = [
        set(changes.filter(item_id__in=item_ids).values_list("item_id", flat=True))
        for changes in (gone_through, undo.changes_in_log())
    ]
    return both[0] - both[1]


def _latest(item_ids: Iterable[str]) -> Iterator[ItemChange]:
    """Yield the latest change of each item."""
    later = ItemChange.objects.filter(
        item_id=OuterRef("item_id"), version__gt=OuterRef("version")
    )
    yield from ItemChange.objects.filter(~Exists(later), item_id__in=list(item_ids))


def describe(conflicts: Conflicts, limit: int | None = None) -> list[ItemConflict]:
    """Return the first conflicts by id, with who made the version that is now."""
    ids = sorted(conflicts)[:limit]
    latest = {change.item_id: change for change in _latest(ids)}
    return [
        ItemConflict(pk, conflicts[pk], latest[pk].version, latest[pk].actor_name)
        for pk in ids
    ]
