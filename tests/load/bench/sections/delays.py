"""Latency of single jobs on an idle pool."""

from collections import defaultdict
from collections.abc import Iterator

from tests.load.bench.measuring import Bench
from tests.load.bench.results import Distribution, Goal, Piece, Row

TITLE = "How soon a job starts"
WAITS = 5
OURS, ON_SQLITE = "this site, PostgreSQL", "this site, SQLite"
CELERY = "Celery, Redis"
GOALS = {
    (OURS, "start"): Goal("<", 25, "p99"),
    (ON_SQLITE, "start"): Goal("<", 250, "p99"),
}
MOMENTS = {
    "start": "From the request to the start of the job",
    "end": "From the request to the end of the job",
    "seen": "From the request to the response with Prefer: wait",
}

type Taken = dict[tuple[str, str], list[float]]


def measure(bench: Bench) -> Iterator[Piece]:
    taken = measured(bench)
    for moment, title in MOMENTS.items():
        rows = [
            Row(name, values, GOALS.get((name, moment)))
            for (name, of), values in taken.items()
            if of == moment
        ]
        yield Distribution(title, "ms", rows, is_drawn=moment == "start")


def measured(bench: Bench) -> Taken:
    testbed = bench.testbed
    env, celery_env = testbed.on_postgres(), testbed.on_postgres()
    sqlite_env = testbed.on_sqlite()
    taken: Taken = defaultdict(list)
    with (
        testbed.pool(env),
        testbed.job_client(env) as postgres,
        testbed.pool(sqlite_env),
        testbed.job_client(sqlite_env) as sqlite,
        testbed.celery_worker(celery_env),
        testbed.job_client(celery_env) as celery,
    ):
        clients = {OURS: postgres, ON_SQLITE: sqlite, CELERY: celery}
        for number in range(bench.scale.few_rounds + 1):
            for name, client in clients.items():
                function = "celery_delays" if client is celery else "delays"
                measured = client.call(function, bench.scale.delays)
                if not number:
                    continue  # the first round is to warm up
                taken[name, "start"] += [start for start, _ in measured]
                taken[name, "end"] += [end for _, end in measured]
                if client is not celery:
                    taken[name, "seen"] += client.call("wait_delays", WAITS)
    return taken
