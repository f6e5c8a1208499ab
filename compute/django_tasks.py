"""Backend of Django's Tasks framework (TASKS in the settings), on jobs.

What is enqueued is a job of the task `django_task`, with its limits, and is run by the
pool or Celery as any other. No client may submit one: it would call any function.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import TaskError
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from compute import queue
from compute.models import Job
from compute.registry import OtherVersion

TASK = "django_task"
STATUSES = {
    Job.State.QUEUED: TaskResultStatus.READY,
    Job.State.RUNNING: TaskResultStatus.RUNNING,
    Job.State.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    Job.State.FAILED: TaskResultStatus.FAILED,
    Job.State.CANCELLED: TaskResultStatus.FAILED,
}


class JobBackend(BaseTaskBackend):
    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def enqueue(
        self, task: Task[..., Any], args: Any, kwargs: Any
    ) -> TaskResult[Any, Any]:
        """Queue the call as a job, in the caller's transaction if there is one."""
        self.validate_task(task)
        call = {"function": task.module_path, "backend": self.alias}
        arguments = {"args": normalize_json(args), "kwargs": normalize_json(kwargs)}
        with transaction.atomic():
            job = Job.objects.create(
                task=TASK, params=call | arguments, run_after=task.run_after
            )
            queue.notify_workers()
        result = as_result(job)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult[Any, Any]:
        try:
            return as_result(Job.objects.get(pk=UUID(result_id), task=TASK))
        except (ValueError, Job.DoesNotExist):
            raise TaskResultDoesNotExist(result_id) from None


def as_result(job: Job) -> TaskResult[Any, Any]:
    function = import_string(job.params["function"])
    result: TaskResult[Any, Any] = TaskResult(
        task=function.using(run_after=job.run_after, backend=job.params["backend"]),
        id=str(job.pk),
        status=STATUSES[Job.State(job.state)],
        enqueued_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        last_attempted_at=job.started_at,
        args=job.params["args"],
        kwargs=job.params["kwargs"],
        backend=job.params["backend"],
        errors=_errors(job),
        worker_ids=[job.worker] * job.attempts,
    )
    object.__setattr__(result, "_return_value", job.result)
    return result


def _errors(job: Job) -> list[TaskError]:
    """Return the last error: a job keeps its text, not a traceback."""
    if not job.error_code:
        return []
    path = "compute.registry.TaskFailed"
    return [TaskError(exception_class_path=path, traceback=job.error_detail)]


def call(job: Job) -> Any:
    """Call the function of a job, in the process that has claimed it."""
    try:
        result = as_result(job)
    except ImportError as error:
        raise OtherVersion from error
    arguments = result.args
    if result.task.takes_context:
        arguments = [TaskContext(task_result=result), *arguments]
    return result.task.call(*arguments, **result.kwargs)
