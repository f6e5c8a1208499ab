"""Uploaded import files, from the preview to the last batch."""

import uuid
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone

from items.imports import importing
from items.imports.file_parsing import Unreadable
from items.models import ImportRun
from resilient_site.accounts.actor import Actor

RETENTION = timedelta(days=1)
# A request imports for so long, then responds; the page continues by itself.
SLICE_SECONDS = 2.0


def receive(upload: "UploadedFile[bytes]", *, actor: Actor) -> ImportRun:
    """Store the file with a preview of its import.

    Raises Unreadable, and stores nothing, if it is not a file of items.
    """
    delete_abandoned()
    folder = _folder()
    path = folder / f"{uuid.uuid4()}.data"
    try:
        with open(path, "xb") as file:
            for chunk in upload.chunks():
                file.write(chunk)
        with open(path, "rb") as file:
            preview = importing.preview(file, max_bytes=settings.IMPORT_MAX_BYTES)
        return importing.begin(
            source=upload.name or "upload",
            path=str(path),
            actor=actor,
            size=preview.bytes_read if preview.complete else path.stat().st_size,
            state=ImportRun.State.PREVIEWED,
            preview=asdict(preview),
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def proceed(run: ImportRun, *, actor: Actor) -> ImportRun:
    """Import the next slice of the file; the file is removed with the last one."""
    if not Path(run.path).exists():
        raise Unreadable(
            "The uploaded file is no longer on this server. Please upload it again: "
            "what was already imported is then unchanged."
        )
    with open(run.path, "rb") as file:
        run = importing.proceed(
            run,
            file,
            actor=actor,
            rejects=partial(importing.write_rejects, rejects_path(run)),
            seconds=SLICE_SECONDS,
            max_bytes=settings.IMPORT_MAX_BYTES,
        )
    if run.state == ImportRun.State.DONE:
        Path(run.path).unlink(missing_ok=True)
    return run


def rejects_path(run: ImportRun) -> Path:
    return _folder() / f"{run.pk}.rejects.csv"


def _folder() -> Path:
    folder: Path = settings.DATA_DIR / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def delete_abandoned() -> int:
    """Delete the files of imports that were not continued; return how many."""
    old = ImportRun.objects.filter(
        started_at__lt=timezone.now() - RETENTION, preview__isnull=False
    )
    for run in old:
        Path(run.path).unlink(missing_ok=True)
        rejects_path(run).unlink(missing_ok=True)
    deleted: int = old.delete()[0]
    return deleted
