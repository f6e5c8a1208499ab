"""Import of files: read as a stream, validated by row, applied in batches.

A batch and the position after it are committed together. Whatever stops an import (a
signal, a full disk, a lost database) leaves whole batches, and `ImportRun` records
where to resume. Rows that break the rules go to a file of rejects: as they were, with
the reason.
"""

import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from items import fields, integrity
from items.fields import ItemData
from items.imports import staging
from items.imports.file_parsing import (
    REJECT_COLUMNS,
    Line,
    Rows,
    UnknownColumns,
    read_rows,
)
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from items.imports.seen_ids import SeenIds
from items.imports.staging import BASE_VERSION
from items.models import ERROR_MAX, ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.api.csv_escaping import render_csv
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


class Reject(NamedTuple):
    line: Line
    reason: str


@dataclass(frozen=True)
class Rejects:
    """Rejected rows of a file, to be written as it has them."""

    rows: Sequence[Reject]
    columns: Sequence[str]
    separator: str
    is_json: bool

    @property
    def extension(self) -> str:
        return "ndjson" if self.is_json else "csv"

    def render(self, *, header: bool) -> bytes:
        """Return the rows with line and reason; imported, these are left out.

        What could not be split into cells or members stands in `reject_row`.
        """
        if self.is_json:
            return b"".join(map(self._render_object, self.rows))
        kept = [
            place
            for place, name in enumerate(self.columns)
            if name.lower() not in REJECT_COLUMNS
        ]
        names = [*(self.columns[place] for place in kept), *REJECT_COLUMNS]
        rows = [names] if header else []
        for line, reason in self.rows:
            cells = line.source if isinstance(line.source, list) else []
            text = "" if cells else line.text
            filled = [*cells, *[""] * len(self.columns)]
            row = [filled[place] for place in kept]
            rows.append([*row, str(line.number), reason, text])
        mark = b"\xef\xbb\xbf" if header else b""
        return mark + render_csv(rows, delimiter=self.separator)

    def _render_object(self, reject: Reject) -> bytes:
        source, (line, reason) = reject.line.source, reject
        members = source if isinstance(source, dict) else {"reject_row": line.text}
        row = members | {"reject_line": line.number, "reject_reason": reason}
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


# Writes rejected rows after the given number of bytes, and returns the new number.
# Called in the transaction of their batch: what an interrupted one wrote is cut off.
type WriteRejects = Callable[[Rejects, int], int]


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
        rows_max, bytes_max = BATCH_ROWS, BATCH_MAX_BYTES
        if connection.vendor == "sqlite":  # no other writer is let in meanwhile
            rows_max = min(rows_max, SQLITE_BATCH_ROWS)
            bytes_max = min(bytes_max, SQLITE_BATCH_MAX_BYTES)
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
            numbers = {pk: line.number for pk, line in self._lines.items()}
            first = seen.record(numbers, up_to=self.line)
            self.reject({pk: _is_repeated(number) for pk, number in first.items()})

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
        if data["id"] not in self.generated_ids:
            self._lines[data["id"]] = line

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Reject rows that are valid in themselves, by their ids."""
        for pk, reason in reasons.items():
            del self.rows[pk]
            self.rejects.append(Reject(self._lines[pk], reason))
        self.rejects.sort(key=lambda reject: reject.line.number)


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
            _compare(batch, result)
            if time.monotonic() > deadline:
                result.complete = False
                break
    return result


def _compare(batch: Batch, result: Preview) -> None:
    counts = staging.compare(list(batch.rows.values()))
    batch.reject(counts.rejected)
    result.created += counts.created
    result.updated += counts.updated + batch.replaced
    result.unchanged += counts.unchanged + batch.repeated
    result.rejected += len(batch.rejects)
    for row in list(batch.rows.values())[: PREVIEW_ROWS - len(result.rows)]:
        result.rows.append(_cells(row, batch))
    for line, reason in batch.rejects[: PREVIEW_REJECTS - len(result.rejects)]:
        # No database stores null characters, and no editor shows them.
        text = line.text[:TEXT_SHOWN].replace("\0", "\\0")
        result.rejects.append((line.number, reason.replace("\0", "\\0"), text))
    result.bytes_read = batch.offset


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
    try:
        form = format_of(run)
        if not form.kind:
            form = recognize(stream, form, max_bytes=max_bytes)
            _advance(run, format=asdict(form))
        with closing(SeenIds(ids_path)) as ids:
            if form.duplicates == "reject" and ids.line < run.line:
                _recollect(ids, read_rows(stream, form).lines, run.line)
            seen = ids if form.duplicates == "reject" else None
            rows = read_rows(
                stream, form, offset=run.offset, line=run.line, max_bytes=max_bytes
            )
            while (batch := Batch(rows.lines, run.offset, seen)).line:
                _apply(run, batch, rows, form, actor=actor, rejects=rejects)
                run.refresh_from_db()
                if on_batch:
                    on_batch(run)
                if deadline is not None and time.monotonic() >= deadline:
                    return run
    except Unreadable as error:
        fail(run, error)
        raise
    _advance(run, state=ImportRun.State.DONE, finished_at=timezone.now())
    run.refresh_from_db()
    return run


def fail(run: ImportRun, error: Unreadable) -> None:
    """End the import of a file that is damaged from its position on."""
    _advance(
        run,
        state=ImportRun.State.FAILED,
        error=error.detail.replace("\0", "\\0")[:ERROR_MAX],
        finished_at=timezone.now(),
    )
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
    counts = staging.apply(list(batch.rows.values()), actor=actor)
    batch.reject(counts.rejected)
    rejected = Rejects(batch.rejects, rows.columns, rows.separator, form.is_json)
    ImportRun.objects.filter(pk=run.pk).update(
        rejects_size=rejects(rejected, run.rejects_size),
        created=F("created") + counts.created,
        updated=F("updated") + counts.updated + batch.replaced,
        unchanged=F("unchanged") + counts.unchanged + batch.repeated,
        rejected=F("rejected") + len(batch.rejects),
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


def write_rejects(path: Path, rejects: Rejects, size: int) -> int:
    """Write rejected rows to a file; see WriteRejects."""
    if path.exists():
        size = min(size, path.stat().st_size)
        os.truncate(path, size)
    else:  # that of an earlier part may have been removed
        size = 0
    if rejects.rows:
        with open(path, "ab") as file:
            file.write(rejects.render(header=not size))
            size = file.tell()
    return size
