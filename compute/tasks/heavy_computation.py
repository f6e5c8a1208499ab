from typing import Any

from rest_framework import serializers

from compute.registry import Parts, anyone, task
from compute.task_context import TaskContext
from compute.tasks.algorithms.primes import SPAN, count_primes

# A smaller part would not be worth the cost of its claim.
PART_MIN = 20_000_000


class Params(serializers.Serializer[Any]):
    size = serializers.IntegerField(
        default=800_000_000,
        min_value=1,
        max_value=4_000_000_000,
        help_text="The primes below this number are counted.",
    )


@task(params=Params, time_limit_s=60, memory_mb=256, may_run=anyone)
def heavy_computation(context: TaskContext, *, size: int) -> Any:
    """Count the primes below a number, on all processes of the pool.

    A demonstration: the default takes one core about two seconds.
    """
    number = min(context.processes, size // PART_MIN)
    if number < 2:
        return _result(size, [count_primes(0, size, context.progress)])
    # Each has small and large numbers, which take longest: they end at the same time.
    starts = (2 + part * SPAN for part in range(number))
    return Parts([{"start": it, "stop": size, "every": number} for it in starts])


@heavy_computation.part
def count(
    context: TaskContext, *, start: int, stop: int, every: int = 1
) -> tuple[int, int]:
    return count_primes(start, stop, context.progress, every)


@heavy_computation.merge
def total(context: TaskContext, counts: list[tuple[int, int]], *, size: int) -> Any:
    return _result(size, counts)


def _result(size: int, counts: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "message": "Heavy computation finished",
        "size": size,
        "primes": sum(count for count, _ in counts),
        "largest": max(largest for _, largest in counts) or None,
    }
