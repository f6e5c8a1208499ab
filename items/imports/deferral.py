"""Rows of an import that refer to items which come later in its file.

They are kept in the database, in the transaction of their batch, and tried again when
the file has been read, in passes over all that are left. The first pass goes backwards:
what a row refers to stands below it. The next ones find what refers to rows that were
rejected. What is left after them waits for each other in a circle: it is written
without these references, and gets them when all of it is there.
"""

from collections.abc import Iterable, Mapping

import orjson
from django.db.models import F, Min

from items.bulk import staging
from items.bulk.checking import BASE_VERSION, Absence
from items.bulk.staging import Counts
from items.fields import ItemData
from items.imports.file_parsing import Line
from items.imports.rejects import Reject
from items.integrity import POINTERS
from items.models import DeferredRow, ImportRun, Item
from resilient_site.accounts.actor import Actor

# The passes after those in which rows are applied whole or not at all.
PARTIAL, LAST = 5, 6


def defer(
    run: ImportRun,
    rows: Iterable[tuple[ItemData, Line]],
    absent: Mapping[str, Absence],
) -> None:
    """Keep rows, of which `absent` says what they refer to, by the id of the item."""
    DeferredRow.objects.bulk_create(
        DeferredRow(
            run=run,
            line=line.number,
            item_id=data["id"],
            place=absent[data["id"]].place,
            data=orjson.dumps(data).decode(),
            source=orjson.dumps(line.source).decode(),
        )
        for data, line in rows
    )


def take_back(run: ImportRun, item_ids: Iterable[str]) -> dict[str, ItemData]:
    """Return those of these items that wait, which they do not any more."""
    rows = DeferredRow.objects.filter(run=run, item_id__in=list(item_ids))
    found = {row.item_id: orjson.loads(row.data) for row in rows}
    if found:
        rows.delete()
    return found


def has_rows(run: ImportRun) -> bool:
    return DeferredRow.objects.filter(run=run).exists()


def retry(
    run: ImportRun, *, actor: Actor, rows_max: int, bytes_max: int
) -> tuple[Counts, list[Reject]]:
    """Apply the next of the rows that wait; return what that did, and the rejects.

    Each call takes some of them a pass further, or out. To be called in a transaction.
    """
    waiting = DeferredRow.objects.filter(run=run)
    attempt = waiting.aggregate(attempt=Min("attempt"))["attempt"]
    order = "-line" if attempt % 2 else "line"
    taken, size = dict[str, DeferredRow](), 0
    for row in waiting.filter(attempt=attempt).order_by(order)[:rows_max].iterator():
        taken[row.item_id] = row
        size += len(row.source)
        if size >= bytes_max:
            break
    rows = {pk: orjson.loads(row.data) for pk, row in taken.items()}
    counts = staging.apply(list(rows.values()), actor=actor, batch_id=run.batch_id)
    reasons = counts.rejected
    kept = _hopeful(run, taken, counts) if attempt < LAST else {}
    if attempt == PARTIAL:
        parts = {pk: _without(rows[pk], absence) for pk, absence in kept.items()}
        given = list(parts.values())
        more = staging.apply(given, actor=actor, batch_id=run.batch_id)
        kept = {
            pk: kept[pk] for pk in kept if pk not in more.rejected.keys() - more.absent
        }
        _mark_partial(run, rows, kept.keys() - more.rejected)
        reasons = reasons | more.rejected
        counts = counts.plus(more)
    elif attempt == LAST:  # they were counted when they were created
        again = [pk for pk, row in taken.items() if row.is_partial]
        updated = counts.updated - len(set(again) - counts.rejected.keys())
        counts = counts._replace(updated=max(0, updated))
    waiting.filter(item_id__in=kept).update(attempt=F("attempt") + 1)
    waiting.filter(item_id__in=taken.keys() - kept).delete()
    rejected = reasons.keys() - kept
    return counts, [_reject(taken[pk], reasons[pk]) for pk in taken if pk in rejected]


def _hopeful(
    run: ImportRun, taken: Mapping[str, DeferredRow], counts: Counts
) -> dict[str, Absence]:
    """Return those of the absent that refer to nothing but what waits as well."""
    hopeful = dict(counts.absent)
    names = {name for absence in hopeful.values() for name in absence.names}
    waiting = DeferredRow.objects.filter(run=run)
    known = {
        *waiting.filter(item_id__in=names).values_list("item_id", flat=True),
        *waiting.filter(place__in=names).values_list("place", flat=True),
    }
    lost = list(counts.rejected.keys() - hopeful.keys())
    while True:
        known -= {name for pk in lost for name in (pk, taken[pk].place)}
        lost = [pk for pk, absence in hopeful.items() if not absence.names <= known]
        if not lost:
            return hopeful
        for pk in lost:
            del hopeful[pk]


def _without(row: ItemData, absence: Absence) -> ItemData:
    """Return the row without its references to what is absent."""
    part = {n: v for n, v in row.items() if n not in POINTERS or v not in absence.names}
    if "links" in part:
        links = part["links"]
        part["links"] = [link for link in links if link["target"] not in absence.names]
    return part


def _mark_partial(
    run: ImportRun, rows: Mapping[str, ItemData], item_ids: Iterable[str]
) -> None:
    """Record what was written of these, so that later edits are not overwritten."""
    found = DeferredRow.objects.filter(run=run, item_id__in=list(item_ids))
    versions = dict(
        Item.objects.filter(pk__in=list(item_ids)).values_list("pk", "version")
    )
    marked = []
    for row in found:
        data = rows[row.item_id] | {BASE_VERSION: versions[row.item_id]}
        row.data, row.is_partial = orjson.dumps(data).decode(), True
        marked.append(row)
    DeferredRow.objects.bulk_update(marked, ["data", "is_partial"])


def _reject(row: DeferredRow, reason: str) -> Reject:
    return Reject(Line(row.line, 0, {}, "", orjson.loads(row.source)), reason)
