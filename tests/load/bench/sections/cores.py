"""Speed-up of a heavy job in parts on two processes."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from tests.load import bare
from tests.load.bench import places
from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import (
    RATIO,
    Goal,
    Missing,
    Piece,
    Row,
    Table,
    ratios,
)

TITLE = "A heavy computation on two cores"


def measure(bench: Bench) -> Iterator[Piece]:
    if len(places.ALL) < 2:
        yield Missing(TITLE, "there is one core")
        return
    seconds = measured(bench)
    rows = [
        Row(name, seconds[name])
        for name in ("this site, 1 process", "this site, 2 processes")
    ]
    yield Table("heavy_computation", "seconds", rows, is_drawn=True)
    ours = ratios(seconds["this site, 1 process"], seconds["this site, 2 processes"])
    # Two processes do twice the work.
    limit = [2 * value for value in ratios(seconds["bare 1"], seconds["bare 2"])]
    yield Table(
        "heavy_computation",
        RATIO,
        [
            Row("this site, 1 process to 2", ours, Goal("≥", 1.9)),
            Row("independent processes: the upper limit", limit),
            Row("the first to the second", ratios(ours, limit)),
        ],
    )


def measured(bench: Bench) -> dict[str, list[float]]:
    testbed, size = bench.testbed, bench.scale.heavy
    env_1 = testbed.on_postgres(COMPUTE_PROCESSES="1")
    env_2 = testbed.on_postgres(COMPUTE_PROCESSES="2")
    with (
        testbed.pool(env_1),
        testbed.job_client(env_1) as one,
        testbed.pool(env_2),
        testbed.job_client(env_2) as two,
        closing(bare.Pools()) as pools,
    ):
        turns: dict[str, Callable[[int], float]] = {
            "this site, 1 process": partial(one.call, "heavy_seconds"),
            "this site, 2 processes": partial(two.call, "heavy_seconds"),
            "bare 1": partial(pools.seconds_to_count, 1),
            "bare 2": partial(pools.seconds_to_count, 2),
        }
        for warm_up in turns.values():
            warm_up(size // 8)
        timed = {name: partial(turn, size) for name, turn in turns.items()}
        return in_turns(bench.scale.rounds, timed)
