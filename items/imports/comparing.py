"""Comparison of a file with the catalogue: what its import would do."""

import io
import time
from collections.abc import Callable, Set
from contextlib import closing
from dataclasses import dataclass, field

from django.utils import timezone

from items import integrity
from items.bulk import staging
from items.bulk.staging import Difference
from items.imports import missing
from items.imports.batch import Batch, limits, open_rows
from items.imports.columns import UnknownColumns
from items.imports.differences import (
    CHANGED,
    NEW,
    REJECTED,
    UNCHANGED,
    OnRow,
    PreviewRow,
    from_json,
    rejected_row,
    row_of,
    to_json,
)
from items.imports.formats import FileFormat
from items.imports.seen_ids import SeenIds
from items.models import Item

PREVIEW_S = 20.0


@dataclass
class Preview:
    """Result that an import would have."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    # Items of the collection that no row is of, and that would be retired or deleted.
    missing: int = 0
    # Why these would be left as they are.
    missing_kept: str = ""
    bytes_read: int = 0
    complete: bool = True
    columns: list[str] = field(default_factory=list)
    # What has to be chosen before the file can be imported.
    problem: str = ""
    delimiter: str = ""  # what was found between cells, one of DELIMITERS


def preview(
    stream: io.BufferedReader,
    form: FileFormat,
    *,
    max_bytes: int | None = None,
    seconds: float | None = None,
    on_row: OnRow | None = None,
    on_batch: Callable[[Preview], None] | None = None,
) -> Preview:
    """Read and compare `stream`, for some seconds, without changing anything.

    `form` is recognized already. `on_row` is given a PreviewRow for each row as it is
    read, but for those that refer to later ones, which come at the end: as many new,
    changed, unchanged and rejected ones as the counts say, unless several rows of an
    item are in one. Then those of what is missing from the file. `on_batch` is given
    the result so far; `bytes_read` of it are read. PREVIEW_S is the time unless
    `seconds` says another one; without an end, `math.inf`.

    Raises Unreadable if it is not a file of items.
    """
    try:
        rows = open_rows(stream, form, max_bytes=max_bytes)
    except UnknownColumns as error:
        return Preview(columns=error.columns, problem=error.detail)
    result = Preview(columns=list(rows.columns), delimiter=rows.delimiter)
    limit = PREVIEW_S if seconds is None else seconds
    deadline = time.monotonic() + limit
    unidentified = 0
    with closing(SeenIds()) as ids:
        while (batch := Batch(rows, form, result.bytes_read, ids)).line:
            _compare(batch, result, ids, on_row)
            unidentified += batch.unidentified
            if on_batch:
                on_batch(result)
            if time.monotonic() > deadline:
                result.complete = False
                return result
        _end_waiting(result, ids, on_row)
        _find_missing(result, form, ids, unidentified, on_row)
    return result


def _compare(batch: Batch, result: Preview, ids: SeenIds, on_row: OnRow | None) -> None:
    found: dict[str, PreviewRow] = {}

    def take(difference: Difference) -> None:
        pk = difference.id
        row = row_of(difference, batch.line_of(pk).number)
        # The import itself generates another id.
        found[pk] = row._replace(id="") if pk in batch.generated_ids else row

    record = take if on_row else None
    counts = staging.compare(list(batch.rows.values()), record=record)
    for pk, absence in counts.absent.items():
        lost = rejected_row(batch.line_of(pk), counts.rejected[pk])
        kind = NEW if absence.is_new else CHANGED
        row = found.pop(pk, lost._replace(kind=kind))
        row = row._replace(reason=lost.reason, text=lost.text)
        names = filter(None, map(integrity.id_of, absence.names))
        ids.record_absent(pk, names, row.line, to_json(row))
    batch.reject(
        {pk: why for pk, why in counts.rejected.items() if pk not in counts.absent}
    )
    result.created += counts.created
    result.updated += counts.updated + batch.replaced
    result.unchanged += counts.unchanged + batch.repeated
    result.rejected += len(batch.rejects)
    result.bytes_read = batch.offset
    if on_row:
        rejected = [rejected_row(line, reason) for line, reason in batch.rejects]
        same = _unchanged(batch, found.keys() | counts.absent.keys())
        rows = [*found.values(), *rejected, *same]
        for row in sorted(rows, key=lambda row: row.line):
            on_row(row)


def _unchanged(batch: Batch, others: Set[str]) -> list[PreviewRow]:
    rows = {pk: row for pk, row in batch.rows.items() if pk not in others}
    names = {pk: row["name"] for pk, row in rows.items() if "name" in row}
    items = Item.objects.filter(pk__in=rows.keys() - names.keys())
    names |= items.values_list("pk", "name")
    return [
        PreviewRow(UNCHANGED, batch.line_of(pk).number, pk, names.get(pk, ""))
        for pk in rows
    ]


def _end_waiting(result: Preview, ids: SeenIds, on_row: OnRow | None) -> None:
    """Count rows that refer to others as rejected if these did not come."""
    for text, is_lost in ids.waiting():
        row = from_json(text)
        if is_lost:
            result.created -= row.kind == NEW
            result.updated -= row.kind == CHANGED
            result.rejected += 1
            row = row._replace(kind=REJECTED, name="", cells=())
        else:
            row = row._replace(reason="", text="")
        if on_row:
            on_row(row)


def _find_missing(
    result: Preview,
    form: FileFormat,
    ids: SeenIds,
    unidentified: int,
    on_row: OnRow | None,
) -> None:
    rows = result.created + result.updated + result.unchanged + result.rejected
    has_own = bool(ids.known([missing.row_of_collection(form)]))
    reason = missing.kept_because(
        form, unidentified=unidentified, rows=rows, has_own=has_own
    )
    result.missing_kept = reason
    place: missing.Position | None = missing.START
    if reason or form.missing_action == "keep":
        place = None
    before, number = timezone.now(), limits()[0]
    while place:
        found, place = missing.find(
            form, ids, after=place, before=before, number=number
        )
        result.missing += len(found)
        if on_row:
            for item in found:
                on_row(missing.row_of(item, form))


def describe_missing(result: Preview, form: FileFormat) -> str:
    """Return what would become of items of the collection that no row is of."""
    if form.missing_action == "keep" or result.missing_kept:
        return result.missing_kept
    done = {"retire": "retired", "delete": "deleted"}[form.missing_action]
    return f"{result.missing:,} items are missing from the file, and would be {done}."
