"""Batches: changes of many items that are listed as one, and undone as one."""

from uuid import UUID

from django.db.models import F
from django.utils import timezone
from uuid_utils.compat import uuid7

from items.models import ChangeBatch
from resilient_site.accounts.actor import Actor
from resilient_site.edge.cache.invalidation import invalidate
from resilient_site.errors import Conflict

# Cache tag of all that shows batches themselves.
BATCHES = "batches"


class BatchEnded(Conflict):
    detail = "The changes were undone before all of them were made: no more are made."


def number_of_items(number: int) -> str:
    """Return the words for so many items."""
    return f"{number:,} item{'' if number == 1 else 's'}"


def begin_batch(
    kind: ChangeBatch.Kind,
    title: str,
    *,
    actor: Actor,
    undoes: ChangeBatch | None = None,
    id: UUID | None = None,
) -> ChangeBatch:
    """Return a new batch, or the one with this `id`.

    The batch of a job has the job's id: a job that is retried goes on with it.
    """
    batch, is_new = ChangeBatch.objects.get_or_create(
        id=id or uuid7(),
        defaults={
            "kind": kind,
            "title": title[:255],
            "actor": actor.user,
            "actor_name": actor.name,
            "undoes": undoes,
        },
    )
    if not is_new:  # the job may have been killed when it had completed the batch
        ChangeBatch.objects.filter(pk=batch.pk, undone=False).update(finished_at=None)
    invalidate(BATCHES)
    return batch


def record_batch(
    id: UUID, kind: ChangeBatch.Kind, title: str, *, actor: Actor, **counts: int
) -> None:
    """Record a batch that one transaction has made, in that transaction."""
    now = timezone.now()
    batch = ChangeBatch(
        id=id,
        kind=kind,
        title=title[:255],
        actor=actor.user,
        actor_name=actor.name,
        started_at=now,
        finished_at=now,
        **counts,
    )
    ChangeBatch.objects.bulk_create([batch])
    invalidate(BATCHES)


def count(
    batch_id: UUID | None, *, created: int = 0, updated: int = 0, deleted: int = 0
) -> None:
    """Add to the counts of a batch, in the transaction of the changes.

    Raises BatchEnded if it takes no more.
    """
    if batch_id is None:
        return
    found = ChangeBatch.objects.filter(pk=batch_id, finished_at=None).update(
        created=F("created") + created,
        updated=F("updated") + updated,
        deleted=F("deleted") + deleted,
    )
    if not found:
        raise BatchEnded


def end_batch(batch_id: UUID) -> None:
    """Let what makes the batch change nothing more: it is to be undone."""
    batch = ChangeBatch.objects.filter(pk=batch_id, finished_at=None)
    batch.update(finished_at=timezone.now())


def finish_batch(batch_id: UUID | None) -> UUID | None:
    """Record that it is complete; one that changed nothing is deleted: None."""
    if batch_id is None:
        return None
    batch = ChangeBatch.objects.filter(pk=batch_id)
    batch.filter(created=0, updated=0, deleted=0).delete()
    is_kept = batch.update(finished_at=timezone.now())
    invalidate(BATCHES)
    return batch_id if is_kept else None
