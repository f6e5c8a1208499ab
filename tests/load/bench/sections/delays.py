"""One job at a time, for a pool that has nothing else to do: how soon it starts."""

from collections import defaultdict
from collections.abc import Iterator

from tests.load.bench.measuring import Bench
from tests.load.bench.results import Distribution, Goal, Piece, Row

TITLE = "How soon a job starts"
SEEN = 5
OURS, ON_SQLITE = "this site, PostgreSQL", "this site, SQLite"
CELERY = "Celery, Redis"
GOALS = {
    (OURS, "start"): Goal("<", 25, "p99"),
    (ON_SQLITE, "start"): Goal("<", 250, "p99"),
}
MOMENTS = {
    "start": "From asking for a job to its start",
    "end": "From asking for a job to its end",
    "seen": "From asking for a job to the answer to who waits for it",
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
    stand = bench.stand
    env, celery_env = stand.on_postgres(), stand.on_postgres()
    sqlite_env = stand.on_sqlite()
    taken: Taken = defaultdict(list)
    with (
        stand.pool(env),
        stand.job_client(env) as postgres,
        stand.pool(sqlite_env),
        stand.job_client(sqlite_env) as sqlite,
        stand.celery_worker(celery_env),
        stand.job_client(celery_env) as celery,
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
                    taken[name, "seen"] += client.call("seen", SEEN)
    return taken
