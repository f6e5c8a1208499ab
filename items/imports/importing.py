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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from items import fields, integrity
from items.bulk import staging
from items.bulk.batches import begin_batch, finish_batch
from items.bulk.staging import BASE_VERSION, Counts
from items.fields import ItemData
from items.imports import deferral
from items.imports.file_parsing import Line, Rows, UnknownColumns, read_rows
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from items.imports.rejects import Reject, Rejects, WriteRejects
from items.imports.seen_ids import SeenIds
from items.models import ERROR_MAX, ChangeBatch, ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.errors import Conflict, Invalid

BATCH_ROWS = 5_000
BATCH_MAX_BYTES = 8 * 1024 * 1024  # of the file
SQLITE_BATCH_ROWS = 500
SQLITE_BATCH_MAX_BYTES = 512 * 1024
PREVIEW_ROWS = 20
PREVIEW_REJECTS = 100
PREVIEW_S = 20.0
TEXT_SHOWN = 500
VERSION_MAX = 2**31 - 1
VERSION_DIGITS = len(str(VERSION_MAX))
FINISHED = (ImportRun.State.DONE, ImportRun.State.FAILED)


class Batch:
    """Rows that are applied together, of one item each.

    It takes the next ones of `lines`, after `offset`. Each is cleaned before the next
    one is read: what no rule bounds is not kept. Without `seen` the last row with an id
    counts, else the first.
    """

    def __init__(
        self, lines: Iterator[Line], offset: int, seen: SeenIds | None
    ) -> None:
        self.line, self.offset = 0, offset
        self.rows: dict[str, ItemData] = {}
        self.rejects: list[Reject] = []
        self.generated_ids: set[str] = set()
        # Rows that are in one with a later row: with other values, or the same.
        self.replaced = self.repeated = 0
        self._lines: dict[str, Line] = {}
        rows_max, bytes_max = _limits()
        for line in islice(lines, rows_max):
            self.line, self.offset = line.number, line.end
            reason = line.error
            if line.fields:
                try:
                    self._take(line, keep_first=seen is not None)
                except Invalid as error:
                    reason = integrity.describe(error.errors or {})
            if reason:
                self.rejects.append(Reject(line, reason))
            if self.offset - offset >= bytes_max:
                break
        if seen and self.line:
            first = self.record(seen)
            self.reject({pk: _is_repeated(number) for pk, number in first.items()})

    def record(self, ids: SeenIds) -> dict[str, int]:
        """Record the ids with their lines; return those that an earlier line has."""
        numbers = {
            pk: line.number
            for pk, line in self._lines.items()
            if pk not in self.generated_ids
        }
        return ids.record(numbers, up_to=self.line)

    def _take(self, line: Line, *, keep_first: bool) -> None:
        data = _clean(line.fields)
        if not keep_first and BASE_VERSION in data:
            # A row before may have been written, or have been a conflict itself.
            reason = "Leave it out where the last row of an id counts."
            raise Invalid(errors={"version": [reason]})
        if "id" not in data:
            if not (derived := integrity.derived_id(data)):
                derived = integrity.new_id()
                self.generated_ids.add(derived)
            data["id"] = derived
        if data["id"] in self.generated_ids:
            pass
        elif earlier := self.rows.get(data["id"]):
            if keep_first:
                number = self._lines[data["id"]].number
                raise Invalid(errors={"id": [_is_repeated(number)]})
            data = earlier | data
            self.replaced += data != earlier
            self.repeated += data == earlier
        self.rows[data["id"]] = data
        self._lines[data["id"]] = line

    def line_of(self, item_id: str) -> Line:
        return self._lines[item_id]

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Reject rows that are valid in themselves, by their ids."""
        for pk, reason in reasons.items():
            del self.rows[pk]
            self.rejects.append(Reject(self._lines[pk], reason))
        self.rejects.sort(key=lambda reject: reject.line.number)

    def defer(self, item_ids: Iterable[str]) -> list[tuple[ItemData, Line]]:
        """Return these rows, which are not of this batch any more."""
        return [(self.rows.pop(pk), self._lines[pk]) for pk in item_ids]

    def include(self, earlier: Mapping[str, ItemData]) -> None:
        """Make one of each of these rows with the later one of its item."""
        for pk, data in earlier.items():
            row = data | self.rows[pk]
            self.replaced += row != data
            self.repeated += row == data
            self.rows[pk] = row


def _limits() -> tuple[int, int]:
    """Return how many rows, and bytes of the file, are applied together."""
    if connection.vendor != "sqlite":
        return BATCH_ROWS, BATCH_MAX_BYTES
    # No other writer is let in meanwhile.
    return (
        min(BATCH_ROWS, SQLITE_BATCH_ROWS),
        min(BATCH_MAX_BYTES, SQLITE_BATCH_MAX_BYTES),
    )


def _clean(raw: Mapping[str, Any]) -> ItemData:
    """Return the fields of a row, and the version that it was made of."""
    # An item that exists keeps what the row has no column for.
    data = fields.clean(raw, partial=raw.get("id") not in (None, ""))
    version = raw.get("version")
    if version not in (None, ""):
        text = str(version).strip()
        is_number = text.isascii() and text.isdigit() and len(text) <= VERSION_DIGITS
        if not is_number or int(text) > VERSION_MAX:
            raise Invalid(errors={"version": ["Must be a whole number."]})
        data[BASE_VERSION] = int(text)
    return data


def _is_repeated(line: int) -> str:
    return f"The id is in line {line:,} already."


@dataclass
class Preview:
    """Result that an import would have, with its first rows and errors."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    bytes_read: int = 0
    complete: bool = True
    # The cells of the first rows, in the order of the fields; None: as it is.
    rows: list[list[str | None]] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    # What has to be chosen before the file can be imported.
    problem: str = ""


def preview(
    stream: io.BufferedReader, form: FileFormat, *, max_bytes: int | None = None
) -> Preview:
    """Read and compare `stream`, for some seconds, without changing anything.

    Raises Unreadable if it is not a file of items.
    """
    try:
        rows = read_rows(stream, form, max_bytes=max_bytes)
    except UnknownColumns as error:
        return Preview(columns=error.columns, problem=error.detail)
    result = Preview(columns=list(rows.columns))
    deadline = time.monotonic() + PREVIEW_S
    with closing(SeenIds()) as ids:
        seen = ids if form.duplicates == "reject" else None
        while (batch := Batch(rows.lines, result.bytes_read, seen)).line:
            if not seen:
                batch.record(ids)
            _compare(batch, result, ids)
            if time.monotonic() > deadline:
                result.complete = False
                return result
        for is_new, *rejected in ids.lost():
            result.created -= is_new
            result.updated -= not is_new
            result.rejected += 1
            if len(result.rejects) < PREVIEW_REJECTS:
                result.rejects.append(_shown(*rejected))
    return result


def _compare(batch: Batch, result: Preview, ids: SeenIds) -> None:
    counts = staging.compare(list(batch.rows.values()))
    for pk, absence in counts.absent.items():
        line = batch.line_of(pk)
        text = line.text[:TEXT_SHOWN]
        values = (pk, absence.is_new, line.number, counts.rejected[pk], text)
        ids.record_absent(values, filter(None, map(integrity.id_of, absence.names)))
        result.created += absence.is_new
        result.updated += not absence.is_new
    batch.reject(
        {pk: why for pk, why in counts.rejected.items() if pk not in counts.absent}
    )
    result.created += counts.created
    result.updated += counts.updated + batch.replaced
    result.unchanged += counts.unchanged + batch.repeated
    result.rejected += len(batch.rejects)
    for row in list(batch.rows.values())[: PREVIEW_ROWS - len(result.rows)]:
        result.rows.append(_cells(row, batch))
    for line, reason in batch.rejects[: PREVIEW_REJECTS - len(result.rejects)]:
        result.rejects.append(_shown(line.number, reason, line.text))
    result.bytes_read = batch.offset


def _shown(number: int, reason: str, text: str) -> tuple[int, str, str]:
    # No database stores null characters, and no editor shows them.
    shown = text[:TEXT_SHOWN].replace("\0", "\\0")
    return number, reason.replace("\0", "\\0"), shown


def _cells(row: ItemData, batch: Batch) -> list[str | None]:
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
            if form.duplicates == "reject" and ids.line < run.line:
                _recollect(ids, read_rows(stream, form).lines, run.line)
            seen = ids if form.duplicates == "reject" else None
            rows = read_rows(
                stream, form, offset=run.offset, line=run.line, max_bytes=max_bytes
            )
            while (batch := Batch(rows.lines, run.offset, seen)).line:
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


def _recollect(ids: SeenIds, lines: Iterator[Line], last: int) -> None:
    """Record the ids up to line `last`, which another process has imported."""
    lines, offset = takewhile(lambda line: line.number <= last, lines), 0
    while (batch := Batch(lines, offset, ids)).line:
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
    rows_max, bytes_max = _limits()
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
