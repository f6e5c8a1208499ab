"""Plain functions that make jobs as the pool would have left them."""

from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from compute import completion, files, jobs, queue
from compute.models import DEFERRED, Job, JobFile
from compute.outcomes import Split, Succeeded
from compute.registry import Parts, get_task
from compute.task_context import TaskContext


def make_job(state: str = "queued", **overrides: Any) -> Job:
    """A job in this state that no pool will touch."""
    now = timezone.now()
    values: dict[str, Any] = {"task": "echo", "params": {"number": 5}, "state": state}
    if state == "queued":
        values["run_after"] = now + DEFERRED * 0.9  # in the queue, and not due
    else:
        values |= {"started_at": now, "attempts": 1, "epoch": 1}
    if state == "running":
        values |= {"lease_until": now + timedelta(days=1), "fraction": 0.42}
    elif state != "queued":
        values["finished_at"] = now + timedelta(seconds=75)
    if state == "failed":
        values |= {"error_code": "error", "error_detail": "ValueError: the cat"}
    return Job.objects.create(**values | overrides)


def claim() -> TaskContext:
    """Claim the first queued job, as a pool would."""
    (claimed,) = queue.claim("worker", 1)
    return TaskContext(claimed, lambda fraction, message: None)


def submit(task: str, owner: User, **params: Any) -> Job:
    serializer = get_task(task).params(data=params)
    serializer.is_valid(raise_exception=True)
    validated = serializer.validated_data
    return jobs.submit(task=get_task(task), params=validated, owner=owner)


def begin(task: str, owner: User, **params: Any) -> TaskContext:
    """A job that has been submitted and claimed."""
    submit(task, owner, **params)
    return claim()


def end(context: TaskContext, result: Any) -> Job:
    assert completion.finish(context.claim, Succeeded(jobs.as_json(result)))
    return Job.objects.get(pk=context.job_id)


def do(name: str, owner: User, **params: Any) -> Job:
    """A job that has succeeded, with what its task, and its parts, really make."""
    task, context = get_task(name), begin(name, owner, **params)
    result = task.main(context, **context.claim.params)
    if isinstance(result, Parts):
        completion.finish(context.claim, Split(result.params))
        for _ in result.params:
            part = claim()
            end(part, task.part_function(part, **part.claim.params))
        context = claim()
        results = context.part_results()
        result = task.merge_function(context, results, **context.claim.params)
    return end(context, result)


def make_file(
    job: Job, name: str, content: bytes, content_type: str = "text/csv"
) -> JobFile:
    with files.create(job, name, content_type) as writer:
        writer.write(content)
    return writer.file


def finished_job(owner: User) -> Job:
    """A job with a result and a file `out.txt`."""
    context = begin("heavy_computation", owner, size=10)
    make_file(Job.objects.get(pk=context.job_id), "out.txt", b"x", "text/plain")
    return end(context, {"message": "done"})
