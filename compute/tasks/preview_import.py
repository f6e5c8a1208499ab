from typing import Any
from uuid import UUID

from rest_framework import serializers

from compute import jobs
from compute.registry import has_permissions, task
from compute.task_context import TaskContext
from items.imports import previews
from items.models import ImportRun
from resilient_site.accounts.actor import Actor


class Params(serializers.Serializer[Any]):
    run = serializers.UUIDField(help_text="The import.")
    key = serializers.UUIDField(help_text="Its preview.")


@task(
    params=Params,
    title="Preview an import",
    time_limit_s=3600,
    may_run=has_permissions("items.add_item", "items.change_item"),
    is_listed=False,
)
def preview_import(context: TaskContext, *, run: str, key: str) -> Any:
    """Preview a large file that was uploaded on the page Import, for that page.

    Another choice there, or the import itself, ends it. Nothing is changed.
    """

    def report(read: int, size: int) -> None:
        context.progress(min(read / size, 0.99) if size else 0)

    preview = previews.finish(
        UUID(run), UUID(key), actor=context.actor, on_batch=report
    )
    if preview is None:
        return {"superseded": True}
    counts = ("created", "updated", "unchanged", "rejected", "missing", "problem")
    return {name: preview[name] for name in counts}


def start(run: ImportRun, key: UUID, actor: Actor) -> str:
    """Queue the preview of an import; return the address of the job."""
    params = {"run": run.pk, "key": key}
    job = jobs.submit(task=preview_import, params=params, owner=actor.user)
    return job.get_absolute_url()
