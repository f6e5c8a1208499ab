"""Import of files: read as a stream, validated by row, applied in batches.

A batch and the position after it are committed together. Whatever stops an import (a
signal, a full disk, a lost database) leaves whole batches, and `ImportRun` records
where to resume. Rows that break the rules go to a file of rejects, with the reason.
"""

import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from items import fields
from items.catalogue import new_id
from items.fields import ItemData
from items.imports import staging
from items.imports.file_parsing import Line, read_lines
from items.models import ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.api.csv_escaping import render_csv
from resilient_site.errors import Conflict, Invalid

BATCH_ROWS = 5_000
BATCH_MAX_BYTES = 8 * 1024 * 1024  # of the file
PREVIEW_ROWS = 20
PREVIEW_REJECTS = 100
PREVIEW_S = 20.0


type Rejected = Sequence[tuple[int, str, str]]
# Writes rejected rows after the given number of bytes, and returns the new number.
# Called in the transaction of their batch: what an interrupted one wrote is cut off.
type WriteRejects = Callable[[Rejected, int], int]


class Batch:
    """Rows that are applied together; of two with the same id the later one counts.

    It takes the next ones of `lines`, after `offset`. Each is cleaned before the next
    one is read: what no rule bounds is not kept.
    """

    def __init__(self, lines: Iterator[Line], offset: int) -> None:
        self.line, self.offset = 0, offset
        self.rows: dict[str, ItemData] = {}
        self.rejects: list[tuple[int, str, str]] = []
        self.generated_ids: set[str] = set()
        self.superseded = 0
        for line in islice(lines, BATCH_ROWS):
            self.line, self.offset = line.number, line.end
            reason = line.error
            if line.fields:
                try:
                    self._take(fields.clean(line.fields))
                except Invalid as error:
                    by_field = (error.errors or {}).items()
                    reason = "; ".join(f"{f}: {' '.join(m)}" for f, m in by_field)
            if reason:
                # No database stores null characters, and no editor shows them.
                reason, text = (s.replace("\0", "\\0") for s in (reason, line.text))
                self.rejects.append((line.number, reason, text))
            if self.offset - offset >= BATCH_MAX_BYTES:
                break

    def _take(self, data: ItemData) -> None:
        if "id" not in data:
            data["id"] = new_id()
            self.generated_ids.add(data["id"])
        if earlier := self.rows.get(data["id"]):
            self.superseded += 1
            data = earlier | data
        self.rows[data["id"]] = data


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


def preview(stream: io.BufferedReader, *, max_bytes: int | None = None) -> Preview:
    """Read and compare `stream`, for some seconds, without changing anything.

    Raises Unreadable if it is not a file of items.
    """
    result = Preview()
    deadline = time.monotonic() + PREVIEW_S
    lines = read_lines(stream, max_bytes=max_bytes)
    while (batch := Batch(lines, result.bytes_read)).line:
        counts = staging.compare(list(batch.rows.values()))
        result.created += counts.created
        result.updated += counts.updated
        result.unchanged += counts.unchanged + batch.superseded
        result.rejected += len(batch.rejects)
        for row in list(batch.rows.values())[: PREVIEW_ROWS - len(result.rows)]:
            result.rows.append(_cells(row, batch))
        result.rejects += batch.rejects[: PREVIEW_REJECTS - len(result.rejects)]
        result.bytes_read = batch.offset
        if time.monotonic() > deadline:
            result.complete = False
            break
    return result


def _cells(row: ItemData, batch: Batch) -> list[str | None]:
    cells = [f.to_text(row[f.name]) if f.name in row else None for f in fields.FIELDS]
    if row["id"] in batch.generated_ids:
        cells[0] = ""  # the import itself generates another one
    return cells


def begin(*, source: str, path: str, actor: Actor, **values: Any) -> ImportRun:
    """Record a new import; `values` are those of other fields of its record."""
    return ImportRun.objects.create(
        id=uuid.uuid4(), source=source[:255], path=path, actor=actor.user, **values
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
    seconds: float | None = None,
    max_bytes: int | None = None,
    on_batch: Callable[[ImportRun], None] | None = None,
) -> ImportRun:
    """Import `stream` from the position of `run`, to the end or for about `seconds`.

    Raises Unreadable if the file is damaged, and Conflict if another process works on
    the same run; what was committed stays.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    lines = read_lines(stream, offset=run.offset, line=run.line, max_bytes=max_bytes)
    while (batch := Batch(lines, run.offset)).line:
        _apply(run, batch, actor=actor, rejects=rejects)
        run.refresh_from_db()
        if on_batch:
            on_batch(run)
        if deadline is not None and time.monotonic() >= deadline:
            return run
    _advance(run, state=ImportRun.State.DONE, finished_at=timezone.now())
    run.refresh_from_db()
    return run


@transaction.atomic
def _apply(
    run: ImportRun, batch: Batch, *, actor: Actor, rejects: WriteRejects
) -> None:
    # First: a second process with the same run waits here, then fails.
    _advance(
        run,
        offset=batch.offset,
        line=batch.line,
        rejected=F("rejected") + len(batch.rejects),
        state=ImportRun.State.RUNNING,
    )
    counts = staging.apply(list(batch.rows.values()), actor=actor)
    ImportRun.objects.filter(pk=run.pk).update(
        rejects_size=rejects(batch.rejects, run.rejects_size),
        created=F("created") + counts.created,
        updated=F("updated") + counts.updated,
        unchanged=F("unchanged") + counts.unchanged + batch.superseded,
    )


def _advance(run: ImportRun, **changes: object) -> None:
    ours = ImportRun.objects.filter(pk=run.pk, offset=run.offset).exclude(
        state=ImportRun.State.DONE
    )
    if not ours.update(**changes):
        raise Conflict(
            "Another process runs this import, or has finished it. Reload the page to "
            "see how far it is."
        )


def render_rejects(rejects: Rejected, *, header: bool) -> bytes:
    names = [("line", "reason", "row")] if header else []
    return render_csv(chain(names, rejects))


def write_rejects(path: Path, rejects: Rejected, size: int) -> int:
    """Write rejected rows to a CSV file: `line, reason, row`; see WriteRejects."""
    if path.exists():
        size = min(size, path.stat().st_size)
        os.truncate(path, size)
    else:  # that of an earlier part may have been removed
        size = 0
    if rejects:
        with open(path, "ab") as file:
            file.write(render_rejects(rejects, header=not size))
            size = file.tell()
    return size
