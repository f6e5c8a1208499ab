"""Uploaded import files, from the preview to the last batch.

Any machine can go on with what another has begun (see resilient_site/storage).
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError
from django.utils import timezone

from items.bulk.batches import BatchEnded, finish_batch
from items.imports import importing, mapping, previews
from items.imports.file_lines import open_lines, pieces
from items.imports.formats import FileFormat, Unreadable
from items.imports.rejects import Rejects
from items.models import ImportFile, ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.resilience import chunks
from resilient_site.storage import files

RETENTION = timedelta(days=1)
# A request imports for so long, then responds; the page continues by itself.
SLICE_SECONDS = 2.0
DELETE_BATCH = 10
# Files of one person that wait to be imported; with more the oldest is deleted.
WAITING_MAX = 10


class FileMissing(Unreadable):
    detail = (
        "The uploaded file is no longer stored. Please upload it again: what was "
        "already imported is then unchanged."
    )


def receive(
    upload: "UploadedFile[bytes]", *, collection: str = "", actor: Actor
) -> ImportRun:
    """Store the file with a preview of its import.

    `collection` is that of rows which name none.

    Raises Unreadable, and stores nothing, if it is not a file of items.
    """
    delete_abandoned()
    waiting = ImportRun.objects.filter(
        actor=actor.user, state=ImportRun.State.PREVIEWED, preview__isnull=False
    )
    latest = waiting.order_by("-started_at").values_list("pk", flat=True)
    ImportRun.objects.filter(pk__in=list(latest[WAITING_MAX - 1 :])).delete()
    run = importing.begin(
        source=upload.name or "upload",
        path="",
        actor=actor,
        state=ImportRun.State.PREVIEWED,
        preview={},
    )
    try:
        file = ImportFile(run=run, kind=ImportFile.Kind.UPLOAD)
        _write(file, upload.chunks())
        return choose(run, FileFormat(collection=collection), actor=actor)
    except BaseException:
        run.delete()
        raise


def _write(file: ImportFile, content: Iterable[bytes]) -> ImportFile:
    file.save()
    with files.writing(file) as writer:
        for piece in content:
            writer.write(piece)
    return file


def choose(run: ImportRun, chosen: FileFormat, *, actor: Actor) -> ImportRun:
    """Preview the file again as `chosen` has it; raises Unreadable as `receive`."""
    previews.make(run, _stored(run), chosen, actor=actor)
    return run


def proceed(run: ImportRun, *, actor: Actor) -> ImportRun:
    """Import the next slice of the file; the file is removed with the last one.

    A damaged file ends the import: its state and `error` say so.
    """
    file = _stored(run)
    if run.state == ImportRun.State.PREVIEWED:
        form = importing.format_of(run)
        header = (run.preview or {}).get("columns", [])
        mapping.remember(form.collection, header, form.columns)
    try:
        with files.open_file(_seekable(run, file)) as stream:
            importing.proceed(
                run,
                stream,
                actor=actor,
                rejects=partial(_append_rejects, run),
                ids_path=str(_ids_path(run)),
                seconds=SLICE_SECONDS,
                max_bytes=settings.IMPORT_MAX_BYTES,
            )
    except (Unreadable, BatchEnded) as error:
        if run.state != ImportRun.State.FAILED:
            importing.fail(run, error)
    if run.state in importing.FINISHED:
        run.files.exclude(kind=ImportFile.Kind.REJECTS).delete()
        _ids_path(run).unlink(missing_ok=True)
    return run


def _stored(run: ImportRun) -> ImportFile:
    file = _complete(run, ImportFile.Kind.UPLOAD)
    if file is None:
        raise FileMissing
    return file


def _complete(run: ImportRun, kind: ImportFile.Kind) -> ImportFile | None:
    return run.files.filter(kind=kind, complete=True).first()


def _seekable(run: ImportRun, file: ImportFile) -> ImportFile:
    """Return a file in which a slice can begin anywhere, made if there is none.

    Other files would be read from their start for every slice.
    """
    form = importing.format_of(run)
    if form.kind not in ("json", "xlsx"):
        return file
    prepared = _complete(run, ImportFile.Kind.LINES)
    if prepared is None:
        prepared = _prepare(run, file, replace(form, is_prepared=False))
    if not form.is_prepared:
        run.format = asdict(replace(form, is_prepared=True))
        run.save(update_fields=["format"])
    return prepared


def _prepare(run: ImportRun, file: ImportFile, form: FileFormat) -> ImportFile:
    """Write the file out as lines."""
    limit = settings.IMPORT_MAX_BYTES
    prepared = ImportFile(run=run, kind=ImportFile.Kind.LINES)
    try:
        with files.open_file(file) as stream:
            content, _ = open_lines(stream, form, max_bytes=limit)
            return _write(prepared, pieces(content, limit))
    except IntegrityError:  # another request was faster
        prepared.delete()
        return run.files.get(kind=ImportFile.Kind.LINES, complete=True)
    except BaseException:
        prepared.delete()
        raise


def _append_rejects(run: ImportRun, rejects: Rejects, size: int) -> int:
    """Write rejected rows to the database; see rejects.WriteRejects."""
    if not rejects.rows:
        return size
    file, _ = ImportFile.objects.get_or_create(
        run=run, kind=ImportFile.Kind.REJECTS, complete=True
    )
    return chunks.append(file, rejects.render(header=not size))


def rejects_file(run: ImportRun) -> ImportFile | None:
    return _complete(run, ImportFile.Kind.REJECTS)


def _folder() -> Path:
    folder: Path = settings.DATA_DIR / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _ids_path(run: ImportRun) -> Path:
    """Return where this machine keeps the ids of the file that it has read."""
    return _folder() / f"{run.pk}.ids"


def delete_abandoned() -> int:
    """Delete some of the imports that were not continued, with their files.

    Return how many.
    """
    limit = timezone.now() - RETENTION
    for path in _folder().iterdir():  # also of runs that another machine has finished
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < limit.timestamp():
                path.unlink()
    old = ImportRun.objects.filter(started_at__lt=limit, preview__isnull=False)
    runs = list(old.only("state", "batch").order_by("started_at")[:DELETE_BATCH])
    for run in runs:
        if run.state == ImportRun.State.RUNNING:  # interrupted for good
            finish_batch(run.batch_id)
    ImportRun.objects.filter(pk__in=[run.pk for run in runs]).delete()
    return len(runs)
