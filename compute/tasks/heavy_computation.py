from itertools import pairwise
from typing import Any

from rest_framework import serializers

from compute.registry import ANYONE, Parts, task
from compute.task_context import Run
from compute.tasks.algorithms.primes import count_primes

# A part takes a while longer than it costs to hand it out.
PART_MIN = 20_000_000
PARTS_PER_PROCESS = 2


class Params(serializers.Serializer[Any]):
    size = serializers.IntegerField(
        default=800_000_000,
        min_value=1,
        max_value=4_000_000_000,
        help_text="The primes below this number are counted.",
    )


@task(params=Params, time_limit_s=60, memory_mb=256, who=ANYONE, strangers_max=16)
def heavy_computation(run: Run, *, size: int) -> Any:
    """Count the primes below a number, on all processes of the pool.

    A demonstration: the default takes one core about two seconds.
    """
    number = min(run.processes * PARTS_PER_PROCESS, size // PART_MIN)
    if run.processes == 1 or number < 2:
        return _result(size, [count_primes(0, size, run.progress)])
    bounds = [size * part // number for part in range(number + 1)]
    return Parts([{"start": a, "stop": b} for a, b in pairwise(bounds)])


@heavy_computation.part
def count(run: Run, *, start: int, stop: int) -> tuple[int, int]:
    return count_primes(start, stop, run.progress)


@heavy_computation.merge
def total(run: Run, counts: list[tuple[int, int]], *, size: int) -> Any:
    return _result(size, counts)


def _result(size: int, counts: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "message": "Heavy computation finished",
        "size": size,
        "primes": sum(count for count, _ in counts),
        "largest": max(largest for _, largest in counts) or None,
    }
