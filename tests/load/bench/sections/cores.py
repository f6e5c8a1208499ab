"""Speed-up of a heavy job in parts on two processes."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial

from tests.load import bare
from tests.load.bench import places
from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import RATIO, Goal, Missing, Piece, Row, Table, ratios
from tests.load.testbed import job_client, pool

TITLE = "A heavy computation on two cores"
ONE, TWO = "this site, 1 process", "this site, 2 processes"


def measure(bench: Bench) -> Iterator[Piece]:
    if len(places.ALL) < 2:
        yield Missing(TITLE, "there is one core")
        return
    testbed, size = bench.testbed, bench.scale.heavy
    env_1 = testbed.on_postgres(COMPUTE_PROCESSES="1")
    env_2 = testbed.on_postgres(COMPUTE_PROCESSES="2")
    with (
        pool(env_1),
        job_client(env_1) as one,
        pool(env_2),
        job_client(env_2) as two,
        closing(bare.Pool()) as processes,
    ):
        turns = {
            ONE: partial(one.call, "heavy_seconds"),
            TWO: partial(two.call, "heavy_seconds"),
            "bare 1": partial(processes.seconds_to_count, 1),
            "bare 2": partial(processes.seconds_to_count, 2),
        }
        for warm_up in turns.values():
            warm_up(size // 8)
        timed = {name: partial(turn, size) for name, turn in turns.items()}
        seconds = in_turns(bench.scale.rounds, timed)
    title, rows = "heavy_computation", [Row(name, seconds[name]) for name in (ONE, TWO)]
    yield Table(title, "seconds", rows)
    ours = ratios(seconds[ONE], seconds[TWO])
    # Two processes do twice the work.
    limit = [2 * value for value in ratios(seconds["bare 1"], seconds["bare 2"])]
    rows = [
        Row("this site, 1 process to 2", ours, Goal("≥", 1.9)),
        Row("independent processes: the upper limit", limit),
        Row("the first to the second", ratios(ours, limit), Goal("≥", 0.97)),
    ]
    yield Table(title, RATIO, rows)
