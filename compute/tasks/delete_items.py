from itertools import batched
from typing import Any
from uuid import UUID

from rest_framework import serializers

from compute.registry import TaskFailed, has_permissions, task
from compute.selection import SelectionParams, selected_items
from compute.task_context import TaskContext
from items import catalogue, integrity
from items.bulk.batches import BatchEnded, begin_batch, finish_batch, number_of_items
from items.models import ChangeBatch


class Params(SelectionParams):
    number = serializers.IntegerField(
        min_value=1,
        help_text="How many items that are. If there are more, none is deleted.",
    )

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        found = selected_items(super().validate(params)).order_by().count()
        if found != params["number"]:
            message = f"There are {found:,} items in this selection."
            raise serializers.ValidationError({"number": [message]})
        return params


@task(
    params=Params,
    title="Delete many items",
    time_limit_s=3600,
    retries=5,
    may_run=has_permissions("items.delete_item"),
)
def delete_items(context: TaskContext, *, search: str, tag: str, number: int) -> Any:
    """Delete a selection of items, however many.

    They are deleted in batches, each in one transaction. A job that is cancelled or
    fails leaves the items that it has not deleted yet. The deletions are one batch of
    changes, which can be undone as one.
    """
    selected = selected_items({"search": search, "tag": tag})
    ids = list(selected.order_by("pk").values_list("pk", flat=True))
    # A run after one that was killed finds fewer.
    if len(ids) > number:
        raise TaskFailed(
            f"There are {len(ids):,} items in this selection now, not {number:,}. "
            "Nothing was deleted."
        )
    done, actor = number - len(ids), context.actor
    kind, title = ChangeBatch.Kind.JOB, f"Delete {number_of_items(number)}"
    batch_id = begin_batch(kind, title, actor=actor, id=context.job_id).pk
    portions = list(batched(ids, catalogue.DELETE_BATCH))
    while portions:
        referred_to = []
        for portion in portions:
            try:
                catalogue.delete_items(portion, actor=actor, batch_id=batch_id)
            except integrity.ItemReferenced as error:
                referred_to.append(portion)
                first = error.members["references"][0]
                continue
            except BatchEnded as error:
                raise TaskFailed(error.detail) from error
            done += len(portion)
            context.progress(done / number, f"{done:,} of {number:,} items")
        if len(referred_to) == len(portions):
            deleted = _deleted(finish_batch(batch_id))
            raise TaskFailed(
                f"{deleted:,} of {number:,} items were deleted. To others that are "
                f"left items refer, such as “{first['item']}” to “{first['target']}”."
            )
        portions = referred_to  # what referred to them may have gone
    finished_id = finish_batch(batch_id)
    return {"deleted": _deleted(finished_id), "batch": finished_id}


def _deleted(batch_id: UUID | None) -> int:
    """Return how many items the batch has deleted: others may delete some, too."""
    return ChangeBatch.objects.get(pk=batch_id).deleted if batch_id else 0
