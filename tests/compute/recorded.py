"""A task that leaves a line for every time it is run: COMPUTE_TASKS names this too."""

import os
import time
from typing import Any

from rest_framework import serializers

from compute.registry import task
from compute.task_context import TaskContext


class Params(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    seconds = serializers.FloatField(default=0.02)


@task(params=Params, time_limit_s=60)
def recorded(context: TaskContext, *, number: int, seconds: float) -> Any:
    """Take some time, on the record."""
    with open(os.environ["RECORD"], "a") as record:
        record.write(f"{context.job_id} {context.claim.epoch}\n")
    time.sleep(seconds)
    return {"number": number, "epoch": context.claim.epoch}
