"""Jobs that do nothing, as many as possible: what it costs to hand one out."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from tests.load import bare
from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import RATIO, Goal, Piece, Row, Table, ratios

TITLE = "Jobs that do nothing"
# A turn has as many as take about so long.
MOST = 10_000
LEAST = 100

OURS = "this site's pool, PostgreSQL"
CELERY = "Celery prefork, Redis, a row for each job"
COMMITS = "bare commits of one-row updates"
SLOTS = "this site's processes and pipes, no database"
PEBBLE = "pebble.ProcessPool, no database"
FUTURES = "concurrent.futures, no database"


def measure(bench: Bench) -> Iterator[Piece]:
    rates = measured(bench)
    title = "Jobs that do nothing, 2 processes"
    rows = [Row(name, values) for name, values in rates.items()]
    yield Table(title, "a second", rows, is_drawn=True)
    yield Table(
        title,
        RATIO,
        [
            Row(name, ratios(rates[ours], rates[theirs]), goal)
            for name, ours, theirs, goal in (
                ("this site's pool to Celery", OURS, CELERY, Goal("≥", 1.5)),
                ("this site's pool to bare commits", OURS, COMMITS, Goal("≥", 0.3)),
                ("processes and pipes to pebble", SLOTS, PEBBLE, None),
            )
        ],
    )


def measured(bench: Bench) -> dict[str, list[float]]:
    stand = bench.stand
    env, celery_env = stand.on_postgres(), stand.on_postgres()
    with (
        stand.pool(env),
        stand.job_client(env) as ours,
        stand.celery_worker(celery_env) as worker,
        stand.job_client(celery_env) as celery,
        closing(bare.Pools()) as pools,
    ):
        turns: dict[str, Callable[[int], float]] = {
            OURS: partial(ours.call, "pool_rate"),
            CELERY: partial(celery.call, "celery_rate", worker.process.pid),
            COMMITS: partial(bare.commits_per_second, env["DATABASE_URL"]),
            SLOTS: partial(ours.call, "slots_rate"),
            PEBBLE: pools.pebble_rate,
            FUTURES: pools.futures_rate,
        }
        seconds = bench.scale.turn_s / 2
        timed = {name: enough(turn, seconds) for name, turn in turns.items()}
        found = in_turns(bench.scale.rounds, timed)
    return {name: found[name] for name in turns}


def enough(turn: Callable[[int], float], seconds: float) -> Callable[[], float]:
    """Warm it up, and see how many jobs take so long."""
    turn(LEAST)
    number = round(turn(2 * LEAST) * seconds)
    return partial(turn, min(max(number, LEAST), MOST))
