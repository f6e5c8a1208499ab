"""Conflicts of an undo: items that cannot be as they were before a batch."""

from collections.abc import Iterable, Iterator
from itertools import batched
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from items import integrity
from items.field_types import public_id
from items.fields import ItemData
from items.models import ChangeBatch, ItemChange
from resilient_site.errors import Conflict

CONFLICTS_SHOWN = 100
CHECKED_AT_ONCE = 5_000
CHANGED_SINCE = "It was changed since."
PURGED = "Its contents were removed for good."


class Step(NamedTuple):
    """What is to be undone of one item: the state before, and the one it left."""

    version: int
    before: ItemData | None
    after: ItemData | None
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

    def __init__(self, conflicts: "Conflicts") -> None:
        shown = describe(conflicts, CONFLICTS_SHOWN)
        items = [conflict.as_json() for conflict in shown]
        super().__init__(members={"items": items, "count": len(conflicts)})
        self.conflicts = shown


def steps_of(changes: QuerySet[ItemChange]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for change in changes.order_by("item_id", "version"):
        first = steps.get(change.item_id)
        steps[change.item_id] = Step(
            change.version,
            first.before if first else change.before,
            change.after,
            change.is_purged or bool(first and first.is_purged),
        )
    return steps


def leave_out(steps: dict[str, Step], conflicts: Conflicts) -> None:
    for pk in conflicts:
        steps.pop(pk, None)


def to_delete(steps: dict[str, Step]) -> list[str]:
    return [pk for pk, s in steps.items() if s.before is None and s.after is not None]


def find_conflicts(batch: ChangeBatch) -> Conflicts:
    """Return the items of a batch of any size that were changed since.

    Or cannot be deleted, as others refer to them.
    """
    conflicts = changed_since(batch)
    earlier = batch.changes_in_log().filter(
        item_id=OuterRef("item_id"), version__lt=OuterRef("version")
    )
    created = batch.changes_in_log().filter(~Exists(earlier), action="created")
    ids = created.values_list("item_id", "version").iterator()
    touched = batch.changes_in_log()

    def is_outside(column: str) -> Any:
        return ~Exists(touched.filter(item_id=OuterRef(column)))

    for some in batched(ids, CHECKED_AT_ONCE):
        versions = dict(some)
        found = integrity.referrers([*versions], is_outside)
        for pk in found.keys() - conflicts:
            conflicts[pk] = _reason(*found[pk], versions[pk])
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
    batch: ChangeBatch,
    steps: dict[str, Step] | None = None,
    position: int | None = None,
) -> Conflicts:
    """Return the items that others have changed since the batch first did.

    With `steps` those alone, and without the steps of items that are as before already,
    or were left out when changes from `position` on were undone.
    """
    family = _family(batch)
    ids = None if steps is None else list(steps)
    if ids == []:
        return {}
    conflicts = {
        pk: Reason("changed_since", CHANGED_SINCE, version)
        for pk, version in _changed_by_others(batch, family, ids)
    }
    if steps is not None:
        conflicts |= _left_otherwise(batch, steps, conflicts, position)
        for pk in conflicts:
            if steps[pk].is_purged:
                conflicts[pk] = Reason("purged", PURGED, steps[pk].version)
    return conflicts


def _family(batch: ChangeBatch) -> list[UUID]:
    """Return the batch, its undos, and theirs."""
    family, found = [], [batch.pk]
    while found:
        family += found
        children = ChangeBatch.objects.filter(undoes__in=found)
        found = list(children.values_list("pk", flat=True))
    return family


def _changed_by_others(
    batch: ChangeBatch, family: list[UUID], item_ids: list[str] | None
) -> Iterator[tuple[str, int]]:
    """Yield the ids, each with the last version that the batch has made."""
    as_stored = ItemChange._meta.get_field("batch").get_db_prep_value
    own = as_stored(batch.pk, connection)
    params: list[Any] = [own]
    among = ""
    if item_ids is not None:
        marks = ", ".join(["%s"] * len(item_ids))
        among, params = f"AND item_id IN ({marks})", [own, *item_ids]
    outside = ", ".join(["%s"] * len(family))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT t.item_id, t.last FROM (
                SELECT item_id, MIN(version) AS first, MAX(version) AS last
                FROM items_itemchange WHERE batch = %s {among} GROUP BY item_id
            ) t JOIN items_itemchange c
                ON c.item_id = t.item_id AND c.version > t.first
            WHERE c.batch IS NULL OR c.batch NOT IN ({outside})
            GROUP BY t.item_id, t.last
            """,
            [*params, *(as_stored(pk, connection) for pk in family)],
        )
        yield from cursor.fetchall()


def _left_otherwise(
    batch: ChangeBatch, steps: dict[str, Step], known: Conflicts, position: int | None
) -> Conflicts:
    """Return the items that are not as the batch has left them."""
    own = [pk for pk in steps if pk not in known]
    changes = ItemChange.objects.filter(item_id__in=own).values_list("item_id")
    versions = changes.annotate(Max("version"))
    conflicts: Conflicts = {}
    for change in _latest(pk for pk, last in versions if last != steps[pk].version):
        step = steps[change.item_id]
        if change.after == step.after:
            continue
        if change.after == step.before or (
            position and change.pk >= position and change.batch == batch.pk
        ):
            del steps[change.item_id]
        else:
            reason = Reason("changed_since", CHANGED_SINCE, step.version)
            conflicts[change.item_id] = reason
    return conflicts


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
