"""A task that records each of its runs in the file RECORD; COMPUTE_TASKS names this."""

import os
import time
from typing import Any

from rest_framework import serializers

from compute.registry import task
from compute.task_context import TaskContext


class Params(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    seconds = serializers.FloatField(default=0.02)


@task(params=Params, time_limit_s=60, retries=20)
def recorded(context: TaskContext, *, number: int, seconds: float) -> Any:
    """Take some time, on the record."""
    with open(os.environ["RECORD"], "a") as record:
        record.write(f"{context.job_id} {context.claim.epoch}\n")
    time.sleep(seconds)
    return {"number": number, "epoch": context.claim.epoch}
