from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import transaction
from rest_framework import serializers

from compute import files
from compute.registry import TaskFailed, has_permissions, task
from compute.task_context import TaskContext
from items.bulk import undo
from items.bulk.batches import finish_batch
from items.bulk.undo import BatchNotFound, Portion
from items.bulk.undo_conflicts import (
    BatchChangedSince,
    Conflicts,
    describe,
    find_conflicts,
)
from items.models import ChangeBatch
from resilient_site.api.csv_escaping import render_csv
from resilient_site.resilience.transactions import atomic_with_retries

CONFLICTS, CSV = "conflicts.csv", "text/csv; charset=utf-8"
COLUMNS = ("id", "reason", "version", "version_now", "changed_by")


class Params(serializers.Serializer[Any]):
    batch = serializers.UUIDField(help_text="The id of the batch of changes.")
    skip_conflicts = serializers.BooleanField(
        default=False,
        help_text="Leave items as they are that others have changed or refer to since. "
        "Unless this is chosen, nothing is undone if there are any.",
    )

    def validate_batch(self, value: UUID) -> str:
        try:
            return str(undo.get_batch(value).pk)
        except BatchNotFound as error:
            raise serializers.ValidationError(error.detail) from error


@task(
    params=Params,
    title="Undo a batch of changes",
    time_limit_s=3600,
    memory_mb=1024,
    retries=5,
    may_run=has_permissions(*undo.PERMISSIONS),
)
def undo_batch(context: TaskContext, *, batch: str, skip_conflicts: bool) -> Any:
    """Undo a batch of changes, however many: its items are as they were before.

    The latest changes are undone first, in portions that are each one transaction. A
    job that is cancelled leaves whole portions, and the next one goes on there. The
    undo is a batch itself, which can be undone.
    """
    saved = context.load_checkpoint() or {}
    if "result" in saved:  # the job was killed at its very end
        return saved["result"]
    undone = undo.get_batch(UUID(batch))
    if not skip_conflicts and not undo.interrupted_undo(undone):
        context.progress(0, "Looking for conflicts")
        if found := find_conflicts(undone):
            return _refuse(context, undone, found)
    made = undo.begin_portions(undone, actor=context.actor, id=context.job_id)
    try:
        while not _proceed(context, made, skip_conflicts).is_last:
            _report(context, undone, made)
    except BatchNotFound as error:
        raise TaskFailed(error.detail) from error
    except BatchChangedSince as error:
        raise TaskFailed(_stopped(error, made)) from error
    return _finish(context, undone, made)


@atomic_with_retries
def _proceed(context: TaskContext, made: ChangeBatch, skip_conflicts: bool) -> Portion:
    left_out = (context.load_checkpoint() or {}).get("conflicts", 0)
    portion = undo.undo_portion(
        made.pk, actor=context.actor, skip_conflicts=skip_conflicts
    )
    if portion.conflicts:
        content = _rows(portion.conflicts, [] if left_out else [COLUMNS])
        files.append(context.job, CONFLICTS, CSV, content)
    context.save_checkpoint({"conflicts": left_out + len(portion.conflicts)})
    return portion


def _report(context: TaskContext, undone: ChangeBatch, made: ChangeBatch) -> None:
    made.refresh_from_db()
    done = undone.changes_in_log().filter(pk__gte=made.position).count()
    message = f"{done:,} of {undone.changes:,} changes"
    context.progress(min(1.0, done / max(1, undone.changes)), message)


def _refuse(context: TaskContext, undone: ChangeBatch, found: Conflicts) -> Any:
    with context.file(CONFLICTS, CSV) as file:
        file.write(_rows(found, [COLUMNS]))
    return _result(undone, None, len(found)) | {"is_undone": False}


def _stopped(error: BatchChangedSince, made: ChangeBatch) -> str:
    made.refresh_from_db()
    first = error.conflicts[0]
    return (
        f"{made.changes:,} changes were undone. Then “{first.item_id}” could not be as "
        f"it was before: {first.reason.detail} A new job with `skip_conflicts` undoes "
        "the others."
    )


@transaction.atomic
def _finish(context: TaskContext, undone: ChangeBatch, made: ChangeBatch) -> Any:
    finish_batch(made.pk)
    left_out = (context.load_checkpoint() or {}).get("conflicts", 0)
    kept = ChangeBatch.objects.filter(pk=made.pk).first()
    result = _result(undone, kept, left_out) | {"is_undone": True}
    context.save_checkpoint({"conflicts": left_out, "result": result})
    return result


def _result(undone: ChangeBatch, made: ChangeBatch | None, conflicts: int) -> Any:
    return {
        "undoes": str(undone.pk),
        "title": undone.title,
        "batch": str(made.pk) if made else None,
        "created": made.created if made else 0,
        "updated": made.updated if made else 0,
        "deleted": made.deleted if made else 0,
        "conflicts": conflicts,
    }


def _rows(conflicts: Conflicts, names: Iterable[Iterable[str]]) -> bytes:
    rows: list[Iterable[object]] = [*names]
    for pk, reason, version_now, changed_by in describe(conflicts):
        rows.append([pk, reason.detail, reason.version, version_now, changed_by])
    return render_csv(rows)
