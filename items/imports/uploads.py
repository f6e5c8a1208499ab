"""Uploaded import files, from the preview to the last batch."""

import os
import uuid
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone

from items.imports import importing
from items.imports.file_lines import open_lines, pieces
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from items.imports.rejects import write_rejects
from items.models import ImportRun
from resilient_site.accounts.actor import Actor

RETENTION = timedelta(days=1)
# A request imports for so long, then responds; the page continues by itself.
SLICE_SECONDS = 2.0
DELETE_BATCH = 100


def receive(upload: "UploadedFile[bytes]", *, actor: Actor) -> ImportRun:
    """Store the file with a preview of its import.

    Raises Unreadable, and stores nothing, if it is not a file of items.
    """
    delete_abandoned()
    pk = uuid.uuid4()
    path = _path(pk, "data")
    try:
        with open(path, "xb") as file:
            for chunk in upload.chunks():
                file.write(chunk)
        return importing.begin(
            id=pk,
            source=upload.name or "upload",
            path=str(path),
            actor=actor,
            state=ImportRun.State.PREVIEWED,
            **_preview(path, FileFormat()),
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def choose(run: ImportRun, chosen: FileFormat) -> ImportRun:
    """Preview the file again as `chosen` has it; raises Unreadable as `receive`."""
    _require(run)
    values = _preview(Path(run.path), chosen)
    previewed = ImportRun.objects.filter(pk=run.pk, state=ImportRun.State.PREVIEWED)
    previewed.update(**values)
    run.refresh_from_db()
    return run


def _preview(path: Path, chosen: FileFormat) -> dict[str, object]:
    limit = settings.IMPORT_MAX_BYTES
    with open(path, "rb") as file:
        form = recognize(file, chosen, max_bytes=limit)
        preview = importing.preview(file, form, max_bytes=limit)
    size = preview.bytes_read if preview.complete else path.stat().st_size
    return {"size": size, "format": asdict(form), "preview": asdict(preview)}


def proceed(run: ImportRun, *, actor: Actor) -> ImportRun:
    """Import the next slice of the file; the file is removed with the last one.

    A damaged file ends the import: its state and `error` say so.
    """
    _require(run)
    try:
        with open(_seekable(run), "rb") as file:
            importing.proceed(
                run,
                file,
                actor=actor,
                rejects=partial(write_rejects, rejects_path(run)),
                ids_path=str(_path(run.pk, "ids")),
                seconds=SLICE_SECONDS,
                max_bytes=settings.IMPORT_MAX_BYTES,
            )
    except Unreadable as error:
        if run.state != ImportRun.State.FAILED:
            importing.fail(run, error)
    if run.state in importing.FINISHED:
        _delete(run, keep="rejects")
    return run


def _require(run: ImportRun) -> None:
    if not Path(run.path).exists():
        raise Unreadable(
            "The uploaded file is no longer on this server. Please upload it again: "
            "what was already imported is then unchanged."
        )


def _seekable(run: ImportRun) -> Path:
    """Return a file in which a slice can begin anywhere, made if there is none.

    Other files would be read from their start for every slice.
    """
    form = importing.format_of(run)
    path = _path(run.pk, "lines")
    if form.is_prepared and path.exists():
        return path
    if form.kind not in ("json", "xlsx"):
        return Path(run.path)
    form = replace(form, is_prepared=False)
    draft = path.with_suffix(f".{uuid.uuid4()}")
    limit = settings.IMPORT_MAX_BYTES
    try:
        with open(run.path, "rb") as file, open(draft, "xb") as lines:
            content, _ = open_lines(file, form, max_bytes=limit)
            lines.writelines(pieces(content, limit))
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    run.format = asdict(replace(form, is_prepared=True))
    run.save(update_fields=["format"])
    return path


def rejects_path(run: ImportRun) -> Path:
    return _path(run.pk, "rejects")


def _path(pk: uuid.UUID, extension: str) -> Path:
    folder: Path = settings.DATA_DIR / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{pk}.{extension}"


def _delete(run: ImportRun, *, keep: str = "") -> None:
    Path(run.path).unlink(missing_ok=True)
    for path in _path(run.pk, "data").parent.glob(f"{run.pk}.*"):
        if path.suffix != f".{keep}":
            path.unlink(missing_ok=True)


def delete_abandoned() -> int:
    """Delete some of the imports that were not continued, with their files.

    Return how many.
    """
    old = ImportRun.objects.filter(
        started_at__lt=timezone.now() - RETENTION, preview__isnull=False
    )
    runs = list(old.only("path").order_by("started_at")[:DELETE_BATCH])
    for run in runs:
        _delete(run)
    ImportRun.objects.filter(pk__in=[run.pk for run in runs]).delete()
    return len(runs)
