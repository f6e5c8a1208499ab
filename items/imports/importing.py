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
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from items.bulk import staging
from items.bulk.batches import BatchEnded, begin_batch, finish_batch
from items.bulk.staging import Counts
from items.imports import deferral, missing
from items.imports.batch import Batch, limits, open_rows
from items.imports.file_parsing import Rows, read_rows
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from items.imports.rejects import Rejects, WriteRejects
from items.imports.seen_ids import SeenIds
from items.models import ERROR_MAX, ChangeBatch, ImportRun
from resilient_site.accounts.actor import Actor
from resilient_site.errors import Conflict, NotAllowed

FINISHED = (ImportRun.State.DONE, ImportRun.State.FAILED)


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
    run; what was committed stays. Raises NotAllowed if items are to be deleted and
    `actor` may not do that, and BatchEnded if what it has done was undone meanwhile.
    """
    may_delete = actor.user is None or actor.user.has_perm("items.delete_item")
    if format_of(run).missing_action == "delete" and not may_delete:
        raise NotAllowed("You are not allowed to delete items.")
    deadline = None if seconds is None else time.monotonic() + seconds
    steps = _import(run, stream, actor, rejects, ids_path, max_bytes)
    try:
        with closing(steps):
            for _ in steps:
                run.refresh_from_db()
                if on_batch:
                    on_batch(run)
                if deadline is not None and time.monotonic() >= deadline:
                    break
    except BatchEnded as error:
        fail(run, error)
        raise
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
    with closing(SeenIds(ids_path)) as ids:
        try:
            if not form.kind:
                form = recognize(stream, form, max_bytes=max_bytes)
                _advance(run, format=asdict(form))
            if run.batch_id is None:
                kind = ChangeBatch.Kind.IMPORT
                _advance(run, batch=begin_batch(kind, run.source, actor=actor))
                run.refresh_from_db()
            if form.needs_ids and ids.line < run.line:
                _recollect(ids, read_rows(stream, form), form, run.line)
            seen = ids if form.needs_ids else None
            rows = open_rows(
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
        while not damage and _has_missing(run, form):
            _sweep(run, ids, rows, form, actor=actor, rejects=rejects)
            yield
    if damage:
        fail(run, damage)
        raise damage
    _end(run, state=ImportRun.State.DONE)


def fail(run: ImportRun, error: Unreadable | BatchEnded) -> None:
    """End an import that cannot go on from its position."""
    text = error.detail.replace("\0", "\\0")[:ERROR_MAX]
    _end(run, state=ImportRun.State.FAILED, error=text)
    run.refresh_from_db()


@transaction.atomic
def _end(run: ImportRun, **changes: object) -> None:
    _advance(run, finished_at=timezone.now(), **changes)
    finish_batch(run.batch_id)


def format_of(run: ImportRun) -> FileFormat:
    return FileFormat(**(run.format or {}))


def describe_imported(run: ImportRun) -> str:
    """Return what a failed import has done, and how to go on."""
    if not run.line:
        return "Nothing was imported."
    undone = ChangeBatch.objects.filter(undone=True)
    if run.batch_id and undone.filter(pk=run.batch_id).exists():
        return "Import the file again if it is to be imported after all."
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
    _record(run, counts, rejected, rejects, unidentified=batch.unidentified)


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


def _has_missing(run: ImportRun, form: FileFormat) -> bool:
    """Return whether there may be more items to retire or delete."""
    if form.missing_action == "keep" or (run.sweep or {}).get("ended"):
        return False
    return not missing_kept(run)


def describe_missing(run: ImportRun) -> str:
    """Return what became of the items of the collection that no row is of."""
    if reason := missing_kept(run):
        return reason
    if format_of(run).missing_action == "keep":
        return ""
    left = run.missing - run.retired - run.deleted
    done = f"{run.deleted:,} deleted" if run.deleted else f"{run.retired:,} retired"
    listed = f", {left:,} left as others refer to them" if left else ""
    return f"{run.missing:,} items are missing from the file: {done}{listed}."


def missing_kept(run: ImportRun) -> str:
    """Return why what was to be retired or deleted is left as it is, if it is."""
    rows = run.created + run.updated + run.unchanged + run.rejected
    return missing.kept_because(
        format_of(run),
        unidentified=run.unidentified,
        rows=rows,
        has_own=run.sweep != missing.NONE_OF_COLLECTION,
    )


@transaction.atomic
def _sweep(
    run: ImportRun,
    ids: SeenIds,
    rows: Rows,
    form: FileFormat,
    *,
    actor: Actor,
    rejects: WriteRejects,
) -> None:
    """Retire or delete items that are missing from the file."""
    _advance(run, state=ImportRun.State.RUNNING)  # a second process waits here
    run.refresh_from_db()  # it may have done a part
    done = missing.step(
        form,
        ids,
        run.sweep,
        before=run.started_at,
        batch_id=run.batch_id,
        number=limits()[0],
        actor=actor,
    )
    _advance(
        run,
        sweep=done.sweep,
        missing=F("missing") + done.found,
        retired=F("retired") + done.retired,
        deleted=F("deleted") + done.deleted,
    )
    rejected = Rejects(done.rejects, rows.columns, rows.separator, form.is_json)
    _record(run, Counts(0, 0, 0, {}, {}), rejected, rejects)


def _record(
    run: ImportRun,
    counts: Counts,
    rejected: Rejects,
    rejects: WriteRejects,
    unidentified: int = 0,
) -> None:
    ImportRun.objects.filter(pk=run.pk).update(
        rejects_size=rejects(rejected, run.rejects_size),
        created=F("created") + counts.created,
        updated=F("updated") + counts.updated,
        unchanged=F("unchanged") + counts.unchanged,
        rejected=F("rejected") + len(rejected.rows),
        unidentified=F("unidentified") + unidentified,
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
