"""Plain functions that make jobs as the pool would have left them."""

from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from compute import files
from compute.jobs import as_json
from compute.models import Job, JobFile
from compute.queue import Claim
from compute.registry import get_task
from compute.task_context import TaskContext


def make_job(state: str = "queued", **overrides: Any) -> Job:
    """A job in this state that no pool will touch."""
    now = timezone.now()
    values: dict[str, Any] = {"task": "echo", "params": {"number": 5}, "state": state}
    if state == "queued":
        values["run_after"] = now + timedelta(days=1)
    else:
        values |= {"started_at": now, "attempts": 1, "epoch": 1}
    if state == "running":
        values |= {"lease_until": now + timedelta(days=1), "fraction": 0.42}
    elif state != "queued":
        values["finished_at"] = now + timedelta(seconds=75)
    if state == "failed":
        values |= {"error_code": "error", "error_detail": "ValueError: the cat"}
    return Job.objects.create(**values | overrides)


def do(task: str, owner: User, upload: bytes = b"", **params: Any) -> Job:
    """A job that has succeeded, with what its task really makes."""
    job = make_job("running", task=task, owner=owner, params=params)
    if upload:
        with files.create(job, "file", "text/csv", kind=JobFile.Kind.INPUT) as file:
            file.write(upload)
    context = TaskContext(Claim.of(job), lambda fraction, message: None)
    result = get_task(task).main(context, **params)
    Job.objects.filter(pk=job.pk).update(
        state="succeeded", result=as_json(result), finished_at=timezone.now()
    )
    job.refresh_from_db()
    return job


def make_file(
    job: Job, name: str, content: bytes, content_type: str = "text/csv"
) -> JobFile:
    with files.create(job, name, content_type) as writer:
        writer.write(content)
    return writer.file
