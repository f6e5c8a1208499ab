"""Files that people upload to be imported, between the preview and the last batch."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BufferedReader
from pathlib import Path

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils import timezone

from items.imports import importing
from items.imports.file_parsing import Unreadable
from items.models import ImportRun
from resilient_site.accounts.actor import Actor

KEPT_FOR = timedelta(days=1)
# A request works on an import for so long, then answers; the page goes on by itself.
SLICE_SECONDS = 2.0


def receive(upload: "UploadedFile[bytes]", *, actor: Actor) -> ImportRun:
    """Keep the file, and note what importing it would do.

    Raises Unreadable, keeping nothing, if it is not a file of items.
    """
    forget_old()
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
            preview=preview,
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def proceed(run: ImportRun, *, actor: Actor) -> ImportRun:
    """Import the next slice of the file; the file is removed with the last one."""
    with _opened(run) as file:
        run = importing.proceed(
            run,
            file,
            actor=actor,
            rejects=importing.into(rejects_path(run)),
            seconds=SLICE_SECONDS,
            max_bytes=settings.IMPORT_MAX_BYTES,
        )
    if run.state == ImportRun.State.DONE:
        Path(run.path).unlink(missing_ok=True)
    return run


def rejects_path(run: ImportRun) -> Path:
    return _folder() / f"{run.pk}.rejects.csv"


@contextmanager
def _opened(run: ImportRun) -> Iterator[BufferedReader]:
    if not Path(run.path).exists():
        raise Unreadable(
            "The uploaded file is no longer on this server. Please upload it again; "
            "what was imported already will be found unchanged."
        )
    with open(run.path, "rb") as file:
        yield file


def _folder() -> Path:
    folder: Path = settings.DATA_DIR / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def forget_old() -> int:
    """Delete the files that nobody came back to; return how many."""
    old = ImportRun.objects.filter(
        started_at__lt=timezone.now() - KEPT_FOR, preview__isnull=False
    )
    for run in old:
        Path(run.path).unlink(missing_ok=True)
        rejects_path(run).unlink(missing_ok=True)
    deleted: int = old.delete()[0]
    return deleted
