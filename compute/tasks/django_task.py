from typing import Any

from rest_framework import serializers

from compute import django_tasks
from compute.registry import task
from compute.task_context import TaskContext


class Params(serializers.Serializer[Any]):
    function = serializers.CharField()
    backend = serializers.CharField()
    args = serializers.ListField()
    kwargs = serializers.DictField()


@task(
    params=Params,
    title="Task of Django",
    retries=0,
    may_run=lambda user: False,  # it would call any function
    is_listed=False,
)
def django_task(context: TaskContext, **call: Any) -> Any:
    """Call a function that was enqueued by Django's Tasks framework."""
    return django_tasks.call(context.job)
