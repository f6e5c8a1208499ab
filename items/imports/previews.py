"""Previews of uploaded files, stored so that they can be paged.

A preview that takes more than a moment is made by a job, whose progress the page shows.
It is written batch by batch; when another one has taken its place, it stops.
"""

import io
import math
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from items import rules
from items.imports import comparing, differences, importing
from items.imports.batch import open_rows
from items.imports.columns import UnknownColumns
from items.imports.comparing import Preview
from items.imports.formats import FileFormat, Unreadable
from items.imports.mapping import remembered_columns
from items.imports.recognition import recognize
from items.models import ImportFile, ImportRun, PreviewRow
from resilient_site.accounts.actor import Actor
from resilient_site.errors import Conflict, Overloaded, TooManyRequests
from resilient_site.storage import files

# The longest preview that a request waits for, without jobs and with them, and the
# largest file of one.
PREVIEW_SECONDS = 20.0
INLINE_SECONDS = 3.0
INLINE_MAX_BYTES = 8 * 1024 * 1024
# Rows that are stored of each kind, and characters of each of their texts.
ROWS_MAX = 10_000
TEXT_MAX = 1_000
WRITTEN_TOGETHER = 500
STALLED_S = 60

type StartJob = Callable[[ImportRun, uuid.UUID, Actor], str]

_start_job: StartJob | None = None


class Superseded(Conflict):
    detail = "Another preview of this file was begun meanwhile, or its import."


def register_job(start: StartJob) -> None:
    """Have long previews made by jobs: `start` queues one and returns its address."""
    global _start_job
    _start_job = start


def make(run: ImportRun, file: ImportFile, chosen: FileFormat, *, actor: Actor) -> None:
    """Preview the file as `chosen` has it, or have a job do it.

    Raises Unreadable, and leaves the preview before, if it is not a file of items.
    """
    limit = settings.IMPORT_MAX_BYTES
    with files.open_file(file) as stream:
        form = recognize(stream, chosen, max_bytes=limit)
        header, problem = _header(stream, form)
        if not form.columns and (known := remembered_columns(form.collection, header)):
            form = replace(form, columns=known)
            header, problem = _header(stream, form)
    preview = Preview(columns=header, problem=problem, complete=bool(problem))
    rows = _Rows(run, uuid.uuid4())
    if not problem and (file.size <= INLINE_MAX_BYTES or not _start_job):
        seconds = INLINE_SECONDS if _start_job else PREVIEW_SECONDS
        try:
            preview = _read(file, form, rows, seconds=seconds)
        except BaseException:
            rows.delete()
            raise
    _show(run, rows, preview, form, file)
    if not preview.complete and _start_job:
        _start(run, rows.key, _start_job, actor)


def _header(stream: io.BufferedReader, form: FileFormat) -> tuple[list[str], str]:
    """Return the names of the columns, and what is to be chosen for them first."""
    try:
        rows = open_rows(stream, form, max_bytes=settings.IMPORT_MAX_BYTES)
        return list(rows.columns), ""
    except UnknownColumns as error:
        return error.columns, error.detail


def _read(
    file: ImportFile,
    form: FileFormat,
    rows: "_Rows",
    *,
    seconds: float,
    on_batch: Callable[[Preview], None] | None = None,
) -> Preview:
    with files.open_file(file) as stream:
        preview = comparing.preview(
            stream,
            form,
            max_bytes=settings.IMPORT_MAX_BYTES,
            seconds=seconds,
            on_row=rows.add,
            on_batch=on_batch,
        )
    rows.flush()
    return preview


class _Rows:
    """Writes the rows of one preview."""

    def __init__(self, run: ImportRun, key: uuid.UUID) -> None:
        self.run, self.key = run, key
        self._numbers = Counter[str]()
        self._waiting: list[PreviewRow] = []

    def add(self, row: differences.PreviewRow) -> None:
        self._numbers[row.kind] += 1
        if self._numbers[row.kind] > ROWS_MAX:
            return
        self._waiting.append(
            PreviewRow(
                run=self.run,
                preview=self.key,
                kind=row.kind,
                number=self._numbers[row.kind],
                line=row.line or None,
                item_id=row.id[: rules.ID_MAX],
                name=row.name[: rules.NAME_MAX],
                cells=[[name, _cut(old), _cut(new)] for name, old, new in row.cells],
                reason=_cut(row.reason),
                text=_cut(row.text),
            )
        )
        if len(self._waiting) >= WRITTEN_TOGETHER:
            self.flush()

    def flush(self) -> None:
        PreviewRow.objects.bulk_create(self._waiting)
        self._waiting.clear()

    def delete(self) -> None:
        PreviewRow.objects.filter(run=self.run, preview=self.key).delete()


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


@transaction.atomic
def _show(
    run: ImportRun, rows: _Rows, preview: Preview, form: FileFormat, file: ImportFile
) -> None:
    """Have this preview take the place of the one before."""
    shown = ImportRun.objects.filter(pk=run.pk, state=ImportRun.State.PREVIEWED).update(
        preview=asdict(preview),
        preview_key=rows.key,
        format=asdict(form),
        size=preview.bytes_read if preview.complete else file.size,
    )
    if shown:
        PreviewRow.objects.filter(run=run).exclude(preview=rows.key).delete()
    else:  # the import has begun
        rows.delete()
    run.refresh_from_db()


def _start(run: ImportRun, key: uuid.UUID, start: StartJob, actor: Actor) -> None:
    """Have a job begin the preview again, and finish it."""
    try:
        # The job begins when its address is on the page.
        with transaction.atomic():
            url = start(run, key, actor)
            _advance(run, key, (run.preview or {}) | {"job": url})
    except (Overloaded, TooManyRequests) as error:
        _advance(run, key, (run.preview or {}) | {"waits": error.detail})
    run.refresh_from_db()


def _advance(
    run: ImportRun, key: uuid.UUID, preview: dict[str, Any], **values: Any
) -> None:
    """Write how far the preview is. Raises Superseded if it is not the latest."""
    own = ImportRun.objects.filter(
        pk=run.pk, preview_key=key, state=ImportRun.State.PREVIEWED
    )
    at = timezone.now().timestamp()
    if not own.update(preview=preview | {"at": at}, **values):
        raise Superseded


def is_stalled(run: ImportRun) -> bool:
    """Return whether the job has done nothing for a while: it waits, or has failed."""
    at = (run.preview or {}).get("at")
    return at is not None and timezone.now().timestamp() - at > STALLED_S


def finish(
    run_id: uuid.UUID,
    key: uuid.UUID,
    *,
    actor: Actor,
    on_batch: Callable[[int, int], None],
) -> dict[str, Any] | None:
    """Make a preview that a request has begun, from the start, without a time limit.

    `on_batch` is called with the bytes that were read and those of the file. Returns
    the preview; None if another one has taken its place, or the import was begun.
    """
    run = ImportRun.objects.filter(pk=run_id, preview_key=key, actor=actor.user).first()
    file = (
        run.files.filter(kind=ImportFile.Kind.UPLOAD, complete=True).first()
        if run
        else None
    )
    if run is None or file is None:
        return None
    job = {"job": (run.preview or {}).get("job", "")}
    rows = _Rows(run, key)
    rows.delete()  # those of the request, or of an attempt that was interrupted

    def advance(preview: Preview) -> None:
        _advance(run, key, asdict(preview) | job | {"complete": False})
        on_batch(preview.bytes_read, file.size)

    try:
        try:
            preview = _read(
                file,
                importing.format_of(run),
                rows,
                seconds=math.inf,
                on_batch=advance,
            )
        except Unreadable as error:  # damaged further down
            preview = Preview(problem=error.detail)
        _advance(run, key, asdict(preview), size=preview.bytes_read or file.size)
    except Superseded:
        rows.delete()
        return None
    return asdict(preview)
