"""Batches: changes of many items that are listed as one, and undone as one."""

from uuid import UUID

from django.db.models import F
from django.utils import timezone

from items.models import ChangeBatch
from resilient_site.accounts.actor import Actor


def begin_batch(
    kind: ChangeBatch.Kind,
    title: str,
    *,
    actor: Actor,
    undoes: ChangeBatch | None = None,
) -> ChangeBatch:
    return ChangeBatch.objects.create(
        kind=kind,
        title=title[:255],
        actor=actor.user,
        actor_name=actor.name,
        undoes=undoes,
    )


def count(
    batch_id: UUID | None, *, created: int = 0, updated: int = 0, deleted: int = 0
) -> None:
    """Add to the counts of a batch, in the transaction of the changes."""
    if batch_id:
        ChangeBatch.objects.filter(pk=batch_id).update(
            created=F("created") + created,
            updated=F("updated") + updated,
            deleted=F("deleted") + deleted,
        )


def finish_batch(batch_id: UUID | None) -> None:
    """Record that it is complete; one that changed nothing is deleted."""
    if batch_id:
        batch = ChangeBatch.objects.filter(pk=batch_id)
        batch.filter(created=0, updated=0, deleted=0).delete()
        batch.update(finished_at=timezone.now())
