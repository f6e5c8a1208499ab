"""Items of a collection that no row of a file is of: retired or deleted at the end.

What is found follows from the file and the catalogue, so that an interrupted import
goes on at its position in `ImportRun.sweep`. Items that others refer to are tried again
when others were deleted, and are listed in the end as not deleted.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q

from items import catalogue, integrity, rules
from items.bulk import staging
from items.imports.differences import MISSING, PreviewRow
from items.imports.file_parsing import Line
from items.imports.formats import FileFormat
from items.imports.rejects import Reject
from items.imports.seen_ids import SeenIds
from items.models import Item, ItemChange
from resilient_site.accounts.actor import Actor

# Sort key and id of the last item that was looked at.
type Position = tuple[str, str]

START: Position = ("", "")
# Values of `ImportRun.sweep`: of a pass over the collection, and when all is done.
BEGIN: dict[str, Any] = {
    "after": START, "first": True, "lists": False, "deleted": 0, "left": 0,
}  # fmt: skip
ENDED = {"ended": True}
# The same, when no row is of the collection: nothing was retired or deleted.
NONE_OF_COLLECTION = ENDED | {"none": True}


class Missing(NamedTuple):
    id: str
    name: str
    status: str


class Done(NamedTuple):
    """What a step has done, and where the next one begins, or ENDED."""

    found: int
    retired: int
    deleted: int
    rejects: list[Reject]
    sweep: Mapping[str, Any]


def row_of_collection(form: FileFormat) -> str:
    """Return the name that SeenIds has if any row is of the collection."""
    return integrity.place_name(form.collection, "")


def kept_because(
    form: FileFormat, *, unidentified: int, rows: int, has_own: bool
) -> str:
    """Return why items that are missing from the file stay as they are, if they do.

    `has_own`: whether any row is of the collection, and not of another one by its cell.
    """
    if form.missing_action == "keep":
        return ""
    if not rows:
        return "The file has no rows: the collection was left as it is."
    if unidentified:
        return (
            f"Of {unidentified:,} rows it is not known which items they are of: what "
            "is missing from the file was left as it is."
        )
    if not has_own:
        return "No row of the file is of the collection: it was left as it is."
    return ""


def find(
    form: FileFormat,
    ids: SeenIds,
    *,
    after: Position,
    before: datetime,
    number: int,
    batch_id: UUID | None = None,
) -> tuple[list[Missing], Position | None]:
    """Return which of the next `number` items of the collection are missing.

    Also where to continue; None at the end. Left out are items that were created since
    `before`, or written by the changes `batch_id`: those of the import itself.
    """
    name, pk = after
    rows = Item.objects.filter(collection=form.collection, created_at__lt=before)
    if form.missing_action == "retire":
        rows = rows.exclude(status=rules.RETIRED)
    rows = rows.filter(sort_key__gte=name).exclude(Q(sort_key=name) & Q(pk__lte=pk))
    values = rows.order_by("sort_key", "pk").values_list(
        "pk", "code", "name", "status", "sort_key"
    )
    items = list(values[:number])
    places = {
        item_id: integrity.place_name(form.collection, code or item_id)
        for item_id, code, *_ in items
    }
    known = ids.known([*places, *places.values()])
    missing = {pk for pk, place in places.items() if not {pk, place} & known}
    if batch_id:
        own = ItemChange.objects.filter(item_id__in=missing, batch=batch_id)
        missing -= set(own.values_list("item_id", flat=True))
    found = [Missing(i, n, status) for i, _, n, status, _ in items if i in missing]
    is_last = len(items) < number
    return found, None if is_last else (items[-1][4], items[-1][0])


def step(
    form: FileFormat,
    ids: SeenIds,
    sweep: Mapping[str, Any] | None,
    *,
    before: datetime,
    batch_id: UUID | None,
    number: int,
    actor: Actor,
) -> Done:
    """Retire or delete what is missing of the next `number` items of the collection.

    To be called in a transaction, with the `sweep` of the step before, None at first.
    """
    if sweep is None and not ids.known([row_of_collection(form)]):
        return Done(0, 0, 0, [], NONE_OF_COLLECTION)
    now: dict[str, Any] = BEGIN | dict(sweep or {})
    found, place = find(
        form,
        ids,
        after=(now["after"][0], now["after"][1]),
        before=before,
        number=number,
        batch_id=batch_id,
    )
    pks = [item.id for item in found]
    counted = len(pks) if now["first"] else 0
    following = now | {"after": place} if place else ENDED
    if form.missing_action == "retire":
        rows = [{"id": pk, "status": rules.RETIRED} for pk in pks]
        counts = staging.apply(rows, actor=actor, batch_id=batch_id)
        refused = [_reject(pk, why) for pk, why in counts.rejected.items()]
        return Done(counted, counts.updated, 0, refused, following)
    if now["lists"]:
        reasons = dict.fromkeys(pks, "Not deleted: others referred to it.")
        reasons |= _referred_to(pks)
        refused = [_reject(pk, reasons[pk]) for pk in pks]
        return Done(0, 0, 0, refused, following)
    deleted = _delete(pks, actor, batch_id)
    now["deleted"] += deleted
    now["left"] += len(pks) - deleted
    if place:
        following = now | {"after": place}
    elif now["left"]:  # what referred to them may be deleted now
        following = BEGIN | {"first": False, "lists": not now["deleted"]}
    return Done(counted, 0, deleted, [], following)


def row_of(item: Missing, form: FileFormat) -> PreviewRow:
    is_deleted = form.missing_action == "delete"
    cells = () if is_deleted else (("status", item.status, rules.RETIRED),)
    return PreviewRow(MISSING, 0, item.id, item.name, cells)


def _delete(pks: Iterable[str], actor: Actor, batch_id: UUID | None) -> int:
    """Delete those that no other item refers to; return how many."""
    left = set(pks)
    while left:
        try:
            catalogue.delete_items(left, actor=actor, batch_id=batch_id)
        except integrity.ItemReferenced:
            left -= _referred_to(left).keys()
        else:
            break
    return len(left)


def _referred_to(pks: Iterable[str]) -> dict[str, str]:
    """Return the items that cannot be deleted, and why."""
    left, reasons = list(pks), dict[str, str]()
    while found := dict(_reasons(left)):
        reasons |= found
        left = [pk for pk in left if pk not in found]
    return reasons


def _reasons(pks: list[str]) -> Iterator[tuple[str, str]]:
    for found in integrity.references_to(pks, limit=None):
        item, field = found["item"], found["field"]
        yield found["target"], f"Not deleted: the item “{item}” refers to it ({field})."


def _reject(item_id: str, reason: str) -> Reject:
    return Reject(Line(0, 0, {"id": item_id}, "", item_id), reason)
