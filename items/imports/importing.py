"""Import of files: read as a stream, validated by row, applied in batches.

A batch and the position after it are committed together. Whatever stops an import (a
signal, a full disk, a lost database) leaves whole batches, and `ImportRun` records
where to resume. Rows that break the rules go to a file of rejects: as they were, with
the reason. Rows that refer to what comes later in the file follow at its end.
"""

import hashlib
import io
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from items import fields, integrity
from items.bulk import staging
from items.bulk.batches import begin_batch, finish_batch
from items.bulk.staging import SET, Counts, Difference
from items.fields import ItemData
from items.imports import deferral
from items.imports.batch import Batch, limits
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
from items.imports.file_parsing import Rows, read_rows
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from items.imports.rejects import Rejects, WriteRejects
from items.imports.seen_ids import SeenIds
from items.models import ERROR_MAX, ChangeBatch, ImportRun, Item
from resilient_site.accounts.actor import Actor
from resilient_site.errors import Conflict

PREVIEW_ROWS = 20
PREVIEW_REJECTS = 100
PREVIEW_S = 20.0
FINISHED = (ImportRun.State.DONE, ImportRun.State.FAILED)


@dataclass
class Preview:
    """Result that an import would have, with its first rows and errors."""

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
    # The cells of the first rows, in the order of the fields; None: as it is.
    rows: list[list[str | None]] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
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
        rows = read_rows(stream, form, max_bytes=max_bytes)
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
    for data in list(batch.rows.values())[: PREVIEW_ROWS - len(result.rows)]:
        result.rows.append(_cells(data, batch))
    rejected = [rejected_row(line, reason) for line, reason in batch.rejects]
    _show_rejects(result, rejected)
    result.bytes_read = batch.offset
    if on_row:
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
            _show_rejects(result, [row])
        else:
            row = row._replace(reason="", text="")
        if on_row:
            on_row(row)


def _show_rejects(result: Preview, rejected: Iterable[PreviewRow]) -> None:
    for row in islice(rejected, max(0, PREVIEW_REJECTS - len(result.rejects))):
        result.rejects.append((row.line, row.reason, row.text))


def _cells(row: ItemData, batch: Batch) -> list[str | None]:
    row = dict(row)
    for part, name in SET.items():
        if part in row:
            values = row.get(name, {}) | row[part]
            row[name] = {n: one for n, one in values.items() if one is not None}
    cells = [f.to_text(row[f.name]) if f.name in row else None for f in fields.FIELDS]
    if row["id"] in batch.generated_ids:
        cells[0] = ""  # the import itself generates another one
    return cells


def begin(*, source: str, path: str, actor: Actor, **values: Any) -> ImportRun:
    """Record a new import; `values` are those of other fields of its record."""
    values = {"id": uuid.uuid4()} | values
    return ImportRun.objects.create(
        source=source[:255], path=path, actor=actor.user, **values
    )


def fingerprint(path: Path) -> str:
    """Identify a file by path, size and time, to resume its import."""
    stat = path.stat()
    facts = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return hashlib.sha256(facts.encode()).hexdigest()


def unfinished(path: Path) -> ImportRun | None:
    """Return the last run of this file if it was interrupted."""
    runs = ImportRun.objects.filter(fingerprint=fingerprint(path))
    run = runs.order_by("-started_at").first()
    return run if run and run.state == ImportRun.State.RUNNING else None


def proceed(
    run: ImportRun,
    stream: io.BufferedReader,
    *,
    actor: Actor,
    rejects: WriteRejects,
    ids_path: str = "",
    seconds: float | None = None,
    max_bytes: int | None = None,
    on_batch: Callable[[ImportRun], None] | None = None,
) -> ImportRun:
    """Import `stream` from the position of `run`, to the end or for about `seconds`.

    The ids of the file are kept in `ids_path`, else only while this runs. Raises
    Unreadable if the file is damaged, and Conflict if another process works on the same
    run; what was committed stays.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    steps = _import(run, stream, actor, rejects, ids_path, max_bytes)
    with closing(steps):
        for _ in steps:
            run.refresh_from_db()
            if on_batch:
                on_batch(run)
            if deadline is not None and time.monotonic() >= deadline:
                break
    run.refresh_from_db()
    return run


def _import(
    run: ImportRun,
    stream: io.BufferedReader,
    actor: Actor,
    rejects: WriteRejects,
    ids_path: str,
    max_bytes: int | None,
) -> Generator[None]:
    """Yield after each transaction, the last of which has ended the import."""
    form, rows = format_of(run), Rows(iter(()))
    damage: Unreadable | None = None
    try:
        if not form.kind:
            form = recognize(stream, form, max_bytes=max_bytes)
            _advance(run, format=asdict(form))
        if run.batch_id is None:
            kind = ChangeBatch.Kind.IMPORT
            _advance(run, batch=begin_batch(kind, run.source, actor=actor))
            run.refresh_from_db()
        with closing(SeenIds(ids_path)) as ids:
            if form.needs_ids and ids.line < run.line:
                _recollect(ids, read_rows(stream, form), form, run.line)
            seen = ids if form.needs_ids else None
            rows = read_rows(
                stream, form, offset=run.offset, line=run.line, max_bytes=max_bytes
            )
            while (batch := Batch(rows, form, run.offset, seen)).line:
                _apply(run, batch, rows, form, actor=actor, rejects=rejects)
                yield
    except Unreadable as error:
        damage = error
    while deferral.has_rows(run):
        _retry(run, rows, form, actor=actor, rejects=rejects)
        yield
    if damage:
        fail(run, damage)
        raise damage
    _advance(run, state=ImportRun.State.DONE, finished_at=timezone.now())
    finish_batch(run.batch_id)


def fail(run: ImportRun, error: Unreadable) -> None:
    """End the import of a file that is damaged from its position on."""
    _advance(
        run,
        state=ImportRun.State.FAILED,
        error=error.detail.replace("\0", "\\0")[:ERROR_MAX],
        finished_at=timezone.now(),
    )
    finish_batch(run.batch_id)
    run.refresh_from_db()


def format_of(run: ImportRun) -> FileFormat:
    return FileFormat(**(run.format or {}))


def describe_imported(run: ImportRun) -> str:
    """Return what a failed import has done, and how to go on."""
    if not run.line:
        return "Nothing was imported."
    return (
        f"The rows up to line {run.line:,} are in: {run.created:,} items created, "
        f"{run.updated:,} updated, {run.unchanged:,} unchanged; {run.rejected:,} rows "
        "rejected. To go on, mend the file and import it again: these rows will then "
        "be unchanged."
    )


def _recollect(ids: SeenIds, rows: Rows, form: FileFormat, last: int) -> None:
    """Record the ids up to line `last`, which another process has imported."""
    lines = takewhile(lambda line: line.number <= last, rows.lines)
    rows, offset = rows._replace(lines=lines), 0
    while (batch := Batch(rows, form, offset, ids)).line:
        offset = batch.offset


@transaction.atomic
def _apply(
    run: ImportRun,
    batch: Batch,
    rows: Rows,
    form: FileFormat,
    *,
    actor: Actor,
    rejects: WriteRejects,
) -> None:
    # First: a second process with the same run waits here, then fails.
    _advance(run, offset=batch.offset, line=batch.line, state=ImportRun.State.RUNNING)
    if form.duplicates == "last":
        batch.include(deferral.take_back(run, batch.rows))
    rows_given = list(batch.rows.values())
    counts = staging.apply(rows_given, actor=actor, batch_id=run.batch_id)
    deferral.defer(run, batch.defer(counts.absent), counts.absent)
    batch.reject(
        {pk: why for pk, why in counts.rejected.items() if pk not in counts.absent}
    )
    counts = counts._replace(
        updated=counts.updated + batch.replaced,
        unchanged=counts.unchanged + batch.repeated,
    )
    rejected = Rejects(batch.rejects, rows.columns, rows.separator, form.is_json)
    _record(run, counts, rejected, rejects)


@transaction.atomic
def _retry(
    run: ImportRun,
    rows: Rows,
    form: FileFormat,
    *,
    actor: Actor,
    rejects: WriteRejects,
) -> None:
    """Apply rows that were deferred; those of a damaged file as well."""
    _advance(run, state=ImportRun.State.RUNNING)  # a second process waits here
    run.refresh_from_db()  # it may have done a part
    rows_max, bytes_max = limits()
    counts, found = deferral.retry(
        run, actor=actor, rows_max=rows_max, bytes_max=bytes_max
    )
    rejected = Rejects(found, rows.columns, rows.separator, form.is_json)
    _record(run, counts, rejected, rejects)


def _record(
    run: ImportRun, counts: Counts, rejected: Rejects, rejects: WriteRejects
) -> None:
    ImportRun.objects.filter(pk=run.pk).update(
        rejects_size=rejects(rejected, run.rejects_size),
        created=F("created") + counts.created,
        updated=F("updated") + counts.updated,
        unchanged=F("unchanged") + counts.unchanged,
        rejected=F("rejected") + len(rejected.rows),
    )


def _advance(run: ImportRun, **changes: object) -> None:
    ours = ImportRun.objects.filter(pk=run.pk, offset=run.offset).exclude(
        state__in=FINISHED
    )
    if not ours.update(**changes):
        raise Conflict(
            "Another process runs this import, or has finished it. Reload the page to "
            "see how far it is."
        )
