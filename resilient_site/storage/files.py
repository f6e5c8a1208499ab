"""Content of the rows of files: in the database, or in STORAGES["files"].

The rows are those of the apps, with `location`, `size`, `complete` and `chunks`. With a
location the content is an object of that name in the storage.
"""

import errno
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from io import BufferedReader
from tempfile import TemporaryFile
from typing import IO, Any
from uuid import uuid4

from django.conf import settings
from django.core.files import File
from django.core.files.storage import InvalidStorageError, storages
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.utils import timezone

from resilient_site.errors import Unavailable
from resilient_site.operations import clean_up, doctor
from resilient_site.resilience import chunks
from resilient_site.resilience.chunks import CHUNK_BYTES, StoredFile

logger = logging.getLogger(__name__)

ALIAS = "files"
FULL = (errno.ENOSPC, errno.EDQUOT)
# What a transaction that is open may refer to is not older than that.
ORPHANED_AFTER = timedelta(days=1)
DELETE_BATCH = 100
# After a failure the clean-up deletes instead: a request does not wait for each file.
PAUSE_S = 10.0

type Writer = chunks.Writer | IO[bytes]


class FilesUnavailable(Unavailable):
    code = "files_unavailable"
    detail = "The storage of files does not answer at the moment. Nothing was changed."


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (OSError, InvalidStorageError) as error:  # the latter without FILES_URL
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        logger.warning("The storage of files does not answer: %s", error)
        raise FilesUnavailable from error


def is_external() -> bool:
    return ALIAS in settings.STORAGES


@contextmanager
def writing(file: StoredFile) -> Iterator[Writer]:
    """Write the content of a new row; it is complete at the end of the block.

    Raises FilesUnavailable.
    """
    if not is_external():
        writer = chunks.Writer(file)
        yield writer
        writer.close()
        return
    with TemporaryFile() as copy:
        yield copy
        size = copy.tell()
        with _available():
            name = f"{_folder(type(file))}/{timezone.now():%Y-%m-%d}/{uuid4()}"
            file.location = storages[ALIAS].save(name, File(copy))
    file.size, file.complete = size, True
    file.save(update_fields=["location", "size", "complete"])


def read(file: StoredFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of `file` from `start` to `end`, a piece in memory.

    Raises FilesUnavailable, and EOFError if some are missing.
    """
    if not file.location:
        yield from chunks.read(file, start, end)
        return
    end = file.size if end is None else end
    with _opened(file) as stream:
        while start < end:
            with _available():
                stream.seek(start)
                piece = stream.read(min(CHUNK_BYTES, end - start))
            if not piece:
                raise EOFError(f"{file} ends at {start} of {file.size} bytes.")
            yield piece
            start += len(piece)


@contextmanager
def open_file(file: StoredFile) -> Iterator[BufferedReader]:
    """Yield a seekable stream of the content, which holds a part of it in memory."""
    if not file.location:
        with chunks.open_file(file) as stream:
            yield stream
        return
    with _available(), _opened(file) as found:
        yield found


@contextmanager
def _opened(file: StoredFile) -> Iterator[BufferedReader]:
    with _available():
        opened: Any = storages[ALIAS].open(file.location)
    with opened:
        yield opened.file  # what is around it is no stream of Python's


# --- objects that no row refers to


def register(model: type[models.Model]) -> None:
    """Delete objects with the rows of `model`, and those that never had one."""
    post_delete.connect(_on_deleted, sender=model)
    doctor.register("files", examine)
    name = f"stored objects of no {model._meta.verbose_name}"
    clean_up.register(name, partial(delete_orphans, model))


def examine() -> Iterator[doctor.Finding]:
    """Report for `manage.py doctor` whether the storage answers."""
    if not is_external():
        yield doctor.ok("Uploads and files of jobs are in the database.")
        return
    try:
        storages[ALIAS].listdir("")
    except FileNotFoundError:
        pass  # a directory is made with the first file
    except OSError as error:
        todo = "Check FILES_URL, the credentials and the network."
        yield doctor.failure(f"The storage of files fails: {error}", todo)
        return
    yield doctor.ok("The storage of files answers.")


_paused_until = 0.0


def _on_deleted(instance: Any, using: str, **kwargs: Any) -> None:
    if instance.location:
        delete = partial(_delete_object, instance.location)
        transaction.on_commit(delete, using=using, robust=True)


def _delete_object(name: str) -> None:
    global _paused_until
    if not is_external() or time.monotonic() < _paused_until:
        return
    try:
        storages[ALIAS].delete(name)
    except OSError as error:
        _paused_until = time.monotonic() + PAUSE_S
        logger.warning("Files are deleted later: %s", error)


def _folder(model: type[Any]) -> str:
    label: str = model._meta.label_lower
    return label


def delete_orphans(model: type[Any]) -> int:
    """Delete some objects of a day before yesterday that have no row; return how many.

    Each call looks at one day, any: an object is deleted sooner or later.
    """
    if not is_external():
        return 0
    storage, folder = storages[ALIAS], _folder(model)
    last = f"{timezone.now() - ORPHANED_AFTER:%Y-%m-%d}"
    orphans: list[str] = []
    try:
        days = [day for day in storage.listdir(folder)[0] if day < last]
        if days:
            path = f"{folder}/{random.choice(days)}"  # noqa: S311 - no secret
            names = {f"{path}/{name}" for name in storage.listdir(path)[1]}
            orphans = sorted(names - _known(model, path))[:DELETE_BATCH]
        for name in orphans:
            storage.delete(name)
    except FileNotFoundError:
        return 0  # nothing was stored yet
    except OSError as error:
        logger.warning("Files are cleaned up later: %s", error)
        return 0
    return len(orphans)


def _known(model: type[Any], path: str) -> set[str]:
    rows = model._default_manager.filter(location__startswith=f"{path}/")
    return set(rows.values_list("location", flat=True))
