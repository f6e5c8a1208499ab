"""Undo of a batch: every item that it touched is again as it was before.

The undo is a batch itself. A small one is undone in one transaction. A large one goes
back through its changes, the latest first, in portions that are each one transaction
and end where a transaction of the batch began: what lies before them was whole at that
time, so that references need no other order. The position is stored with each portion.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from items import catalogue, integrity
from items.bulk import creation, staging
from items.bulk.batches import begin_batch, count, end_batch, finish_batch
from items.bulk.checking import Batch
from items.bulk.rows import is_any, texts
from items.bulk.undo_conflicts import (
    BatchChangedSince,
    Conflicts,
    Reason,
    Step,
    changed_since,
    leave_out,
    parsed,
    referred_to,
    steps_of,
    to_delete,
)
from items.models import ChangeBatch, ItemChange
from resilient_site.accounts.actor import Actor
from resilient_site.errors import Conflict, NotFound
from resilient_site.resilience.transactions import atomic_with_retries

# Undoing creates, changes and deletes items.
PERMISSIONS = ("items.add_item", "items.change_item", "items.delete_item")
CHANGES_AT_ONCE = 1_000
# Those with the rows of an item, in the order in which they are deleted.
TABLES = (
    ("items_itemtag", "item_id"),
    ("items_itemlink", "item_id"),
    ("items_item", "id"),
)
PORTION = 5_000
SQLITE_PORTION = 500  # no other writer is let in meanwhile


class BatchNotFound(NotFound):
    code = "batch_not_found"
    detail = "There is no such batch of changes."


class BatchNeedsJob(Conflict):
    code = "batch_needs_job"
    detail = (
        f"A batch of more than {CHANGES_AT_ONCE:,} changes is undone by a job: submit "
        "one of the task undo_batch."
    )


class Undone(NamedTuple):
    """The batch of the undo, None if it changed nothing, and what was left out."""

    batch: ChangeBatch | None
    conflicts: Conflicts


class Portion(NamedTuple):
    changes: int  # that were undone, or left out
    conflicts: Conflicts
    is_last: bool


class Plan(NamedTuple):
    """What an undo would do, by the change log alone."""

    restored: int
    created: int
    deleted: int
    conflicts: Conflicts


def get_batch(batch_id: UUID) -> ChangeBatch:
    """Raise BatchNotFound if there is none."""
    batch = ChangeBatch.objects.select_related("undoes").filter(pk=batch_id).first()
    if batch is None:
        raise BatchNotFound
    return batch


def needs_job(batch: ChangeBatch) -> bool:
    return batch.changes > CHANGES_AT_ONCE


@atomic_with_retries
def undo_batch(batch_id: UUID, *, actor: Actor, skip_conflicts: bool = False) -> Undone:
    """Undo all of a batch in one transaction, or with `skip_conflicts` what can be.

    Raises BatchNotFound, BatchNeedsJob and, unless they are skipped, BatchChangedSince.
    """
    batch = get_batch(batch_id)
    if needs_job(batch):
        raise BatchNeedsJob
    end_batch(batch.pk)
    undo = begin_undo(batch, actor=actor)
    steps = steps_of(batch.changes_in_log())
    conflicts = _undo(batch, undo, steps, actor, skip_conflicts)
    finish_batch(undo.pk)
    return Undone(ChangeBatch.objects.filter(pk=undo.pk).first(), conflicts)


def plan(batch: ChangeBatch) -> Plan:
    """Return what `undo_batch` would do, but for rules that only the write checks."""
    steps = steps_of(batch.changes_in_log())
    conflicts = changed_since(batch, steps)
    leave_out(steps, conflicts)
    while found := referred_to(steps):
        leave_out(steps, found)
        conflicts |= found
    befores = [(step.before, step.after) for step in steps.values()]
    return Plan(
        restored=sum(
            before is not None and after is not None for before, after in befores
        ),
        created=sum(before is not None and after is None for before, after in befores),
        deleted=sum(before is None and after is not None for before, after in befores),
        conflicts=conflicts,
    )


def begin_undo(
    batch: ChangeBatch, *, actor: Actor, id: UUID | None = None
) -> ChangeBatch:
    title = f"Undo: {batch.title}"
    return begin_batch(ChangeBatch.Kind.UNDO, title, actor=actor, undoes=batch, id=id)


# --- in portions


def interrupted_undo(batch: ChangeBatch) -> ChangeBatch | None:
    """Return the undo in portions that has not been completed, if there is one."""
    begun = ChangeBatch.objects.filter(undoes=batch, position__isnull=False)
    return begun.filter(finished_at=None).order_by("started_at").first()


@transaction.atomic
def begin_portions(batch: ChangeBatch, *, actor: Actor, id: UUID) -> ChangeBatch:
    """Return the undo that was interrupted, or a new one with this id."""
    if found := interrupted_undo(batch):
        return found
    end_batch(batch.pk)
    undo = begin_undo(batch, actor=actor, id=id)
    last = batch.changes_in_log().order_by("-pk").first()
    undo.position = last.pk + 1 if last else 0
    undo.save(update_fields=["position"])
    return undo


@atomic_with_retries
def undo_portion(
    undo_id: UUID, *, actor: Actor, skip_conflicts: bool = False
) -> Portion:
    """Undo the next changes of a batch, from the latest on.

    Raises BatchChangedSince unless conflicts are skipped, and BatchNotFound if the undo
    was ended meanwhile, by an undo of itself.
    """
    rows = ChangeBatch.objects.select_for_update(no_key=True)
    undo = rows.filter(pk=undo_id, finished_at=None).first()
    if undo is None or undo.undoes is None or undo.position is None:
        raise BatchNotFound("The undo was undone itself, or is complete.")
    batch = undo.undoes
    left = batch.changes_in_log().filter(pk__lt=undo.position)
    start = _start(left)
    taken = left.filter(pk__gte=start)
    number, steps = taken.count(), steps_of(taken)
    conflicts = _undo(batch, undo, steps, actor, skip_conflicts)
    ChangeBatch.objects.filter(pk=undo.pk).update(position=start)
    return Portion(number, conflicts, is_last=start == 0)


def _start(left: QuerySet[ItemChange]) -> int:
    """Return the first id of the last changes of `left`: about a portion of them.

    The changes of one transaction have one time, and stay together.
    """
    size = PORTION if connection.vendor == "postgresql" else SQLITE_PORTION
    edge = left.order_by("-pk")[size : size + 1].first()
    if edge is None:
        return 0
    others = left.exclude(at=edge.at)
    if above := others.filter(pk__gt=edge.pk).order_by("pk").first():
        return above.pk
    below = others.filter(pk__lt=edge.pk).order_by("-pk").first()
    return below.pk + 1 if below else 0


# --- what is done to the items of one transaction


def _undo(
    batch: ChangeBatch,
    undo: ChangeBatch,
    steps: dict[str, Step],
    actor: Actor,
    skip_conflicts: bool,
) -> Conflicts:
    """Return what was left out of `steps`; raise BatchChangedSince unless it may be."""
    integrity.lock_wholly(list(steps))
    conflicts = changed_since(batch, steps, undo)
    found, now = conflicts, timezone.now()
    while True:
        leave_out(steps, found)
        if found and not skip_conflicts:
            raise BatchChangedSince(conflicts | referred_to(steps))
        if not (found := _write(undo, steps, actor, now)):
            break
        conflicts |= found
    _mark_undone(undo)
    return conflicts


def _write(
    undo: ChangeBatch, steps: dict[str, Step], actor: Actor, now: datetime
) -> Conflicts:
    """Write all of `steps`, or nothing and return what is in the way."""
    if found := referred_to(steps):
        return found
    rows = [
        {"id": pk} | before
        for pk, step in steps.items()
        if (before := parsed(step.before)) is not None
    ]
    with transaction.atomic():
        # First, as others take back their codes. What refers to them is written next.
        _delete(undo, {pk: steps[pk] for pk in to_delete(steps)}, actor, now)
        restored = Batch(rows, locks=True, expect=lambda batch: {}, is_whole=True)
        if restored.errors:
            transaction.set_rollback(True)
        elif rows:
            counts = staging.write(restored, actor=actor, batch_id=undo.pk, at=now)
            count(undo.pk, created=counts.created, updated=counts.updated)
    return {
        pk: Reason("invalid", integrity.describe(errors), steps[pk].version)
        for pk, errors in restored.errors.items()
    }


def _delete(
    undo: ChangeBatch, steps: dict[str, Step], actor: Actor, now: datetime
) -> None:
    """Delete the items; what they were is in the change log already."""
    if not steps:
        return
    by = creation.made_by(actor, undo.pk)
    at, ids = connection.ops.adapt_datetimefield_value(now), texts(steps)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO items_itemchange
                (item_id, version, action, before, at, {", ".join(by)})
            SELECT i.id, i.version + 1, 'deleted', c.after, %s,
                {", ".join(["%s"] * len(by))}
            FROM items_item i
            JOIN items_itemchange c ON c.item_id = i.id AND c.version = i.version
            WHERE i.id {is_any()} ORDER BY i.id
            """,
            [at, *by.values(), ids],
        )
        deleted = cursor.rowcount
        for table, column in TABLES:
            cursor.execute(f"DELETE FROM {table} WHERE {column} {is_any()}", [ids])
    catalogue.invalidate_items(
        (pk, parsed(step.after), None) for pk, step in steps.items()
    )
    count(undo.pk, deleted=deleted)


def _mark_undone(undo: ChangeBatch) -> None:
    """Record that what it undoes is undone, and what that had undone is not."""
    undo.refresh_from_db()
    if not undo.changes:
        return
    batch, is_undone = undo.undoes, True
    while batch:
        ChangeBatch.objects.filter(pk=batch.pk).update(undone=is_undone)
        batch, is_undone = batch.undoes, not is_undone
