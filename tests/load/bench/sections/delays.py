"""Latency of single jobs on an idle pool."""

from collections.abc import Iterator

from tests.load.bench.measuring import Bench
from tests.load.bench.results import Distribution, Goal, Piece, Row
from tests.load.testbed import celery_worker, job_client, pool

TITLE = "How soon a job starts"
POSTGRES, SQLITE = "this site, PostgreSQL", "this site, SQLite"
CELERY = "Celery, Redis"
START, END = "start", "end"
GOALS = {
    (POSTGRES, START): Goal("<", 25, "p99"),
    (SQLITE, START): Goal("<", 250, "p99"),
}


def measure(bench: Bench) -> Iterator[Piece]:
    testbed = bench.testbed
    env, celery_env = testbed.on_postgres(), testbed.on_postgres()
    sqlite_env = testbed.on_sqlite()
    names = POSTGRES, SQLITE, CELERY
    taken: dict[str, dict[str, list[float]]] = {
        START: {name: [] for name in names},
        END: {name: [] for name in names},
    }
    with (
        pool(env),
        job_client(env) as postgres,
        pool(sqlite_env),
        job_client(sqlite_env) as sqlite,
        celery_worker(celery_env),
        job_client(celery_env) as celery,
    ):
        clients = dict(zip(names, (postgres, sqlite, celery), strict=True))
        for number in range(bench.scale.few_rounds + 1):
            for name, client in clients.items():
                function = "celery_delays" if name == CELERY else "delays"
                delays = client.call(function, bench.scale.delays)
                if not number:
                    continue  # the first round is to warm up
                taken[START][name] += [started for started, _ in delays]
                taken[END][name] += [ended for _, ended in delays]
    for moment, of in taken.items():
        title = f"From the request to the {moment} of the job"
        rows = [Row(name, of[name], GOALS.get((name, moment))) for name in of]
        yield Distribution(title, "ms", rows)
