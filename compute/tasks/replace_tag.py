from typing import Any

from rest_framework import serializers

from compute.registry import TaskFailed, has_permissions, task
from compute.task_context import TaskContext
from items import rules
from items.bulk.batches import BatchEnded, begin_batch, finish_batch
from items.models import ChangeBatch, ItemTag
from items.tags import editing
from resilient_site.errors import NotFound


class Params(serializers.Serializer[Any]):
    tag = serializers.CharField(max_length=rules.TAG_MAX, help_text="The tag.")
    into = serializers.CharField(
        max_length=rules.TAG_MAX,
        help_text="Its new name; or another tag, which takes its place.",
    )

    def validate_tag(self, value: str) -> str:
        try:
            return editing.get_tag(value).name
        except NotFound as error:
            raise serializers.ValidationError(error.detail) from error

    def validate_into(self, value: str) -> str:
        try:
            return rules.clean_tag(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error

    def validate(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["into"] == params["tag"]:
            raise serializers.ValidationError({"into": ["This is the tag itself."]})
        return params


@task(
    params=Params,
    title="Rename or merge a tag",
    time_limit_s=3600,
    retries=5,
    may_run=has_permissions("items.change_tag", "items.change_item"),
)
def replace_tag(context: TaskContext, *, tag: str, into: str) -> Any:
    """Give another name to a tag, or its items to another tag, however many they are.

    They are edited in batches, each in one transaction and with entries in the change
    log. A job that is cancelled or fails leaves some items with the one and some with
    the other: a new job does the rest.
    """
    done, total = 0, ItemTag.objects.filter(tag__name=tag).count()

    def report(items: int) -> None:
        nonlocal done
        done += items
        context.progress(done / max(done, total), f"{done:,} of {total:,} items")

    title = f"Replace tag {tag} by {into}"
    batch = begin_batch(
        ChangeBatch.Kind.JOB, title, actor=context.actor, id=context.job_id
    )
    try:
        editing.replace_tag(
            tag, into, actor=context.actor, batch_id=batch.pk, on_batch=report
        )
    except BatchEnded as error:
        raise TaskFailed(error.detail) from error
    return {"tag": into, "items": done, "batch": finish_batch(batch.pk)}
