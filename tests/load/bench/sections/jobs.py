"""Throughput of jobs that do nothing."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from tests.load import bare
from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import RATIO, Goal, Piece, Row, Table, ratios
from tests.load.testbed import celery_worker, job_client, pool

TITLE = "Jobs that do nothing"
# The number of jobs in a turn.
MAX_JOBS = 10_000
MIN_JOBS = 100

OURS = "this site's pool, PostgreSQL"
CELERY = "Celery prefork, Redis, a row for each job"
COMMITS = "bare commits of one-row updates"
FUTURES = "concurrent.futures, no database"


def measure(bench: Bench) -> Iterator[Piece]:
    testbed = bench.testbed
    env, celery_env = testbed.on_postgres(), testbed.on_postgres()
    with (
        pool(env),
        job_client(env) as ours,
        celery_worker(celery_env) as worker,
        job_client(celery_env) as celery,
        closing(bare.Pool()) as pool_of_processes,
    ):
        turns = {
            OURS: partial(ours.call, "pool_rate"),
            CELERY: partial(celery.call, "celery_rate", worker.process.pid),
            COMMITS: partial(bare.commits_per_second, env["DATABASE_URL"]),
            FUTURES: pool_of_processes.rate,
        }
        seconds = bench.scale.turn_s / 2
        timed = {name: turn_of_about(turn, seconds) for name, turn in turns.items()}
        rates = in_turns(bench.scale.rounds, timed)
    title = "Jobs that do nothing, 2 processes"
    rows = [Row(name, values) for name, values in rates.items()]
    yield Table(title, "a second", rows)
    rows = [
        Row(name, ratios(rates[ours], rates[theirs]), goal)
        for name, ours, theirs, goal in (
            ("this site's pool to Celery", OURS, CELERY, Goal("≥", 5)),
            ("this site's pool to bare commits", OURS, COMMITS, Goal("≥", 0.35)),
        )
    ]
    yield Table(title, RATIO, rows)


def turn_of_about(turn: Callable[[int], float], seconds: float) -> Callable[[], float]:
    """Warm up, and return a turn of about this duration."""
    turn(MIN_JOBS)
    number = round(turn(2 * MIN_JOBS) * seconds)
    return partial(turn, min(max(number, MIN_JOBS), MAX_JOBS))
