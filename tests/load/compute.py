"""The pool beside its peers, on this machine: no-op jobs, delays, speed-up, reads.

    make bench-compute [ARGS=ROUNDS]

Starts all that it needs and leaves nothing behind. What is compared runs in turns, in
every second round in the opposite order, and the ratios are taken round by round: the
neighbours of a shared machine then fall on both sides. Prints Markdown.
"""

import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.load import bare, reads, report
from tests.load.report import percentile, ratios
from tests.load.stand import Program, Stand
from tests.running import Site

ROUNDS = 5
# A turn has as many no-op jobs as take about so long.
TURN_S = 1.0
DELAYS = 40
SEEN = 5
HEAVY_SIZE = 800_000_000
READS_PER_S = 150
READS_S = 3
CELERY = """
    -m celery -A tests.load.celery_peer worker --concurrency=2 --loglevel=WARNING
    --without-gossip --without-mingle --without-heartbeat
""".split()  # noqa: SIM905 - easier to read

type Values = Mapping[str, list[float]]


def in_turns(rounds: int, turns: Mapping[str, Callable[[], float]]) -> Values:
    """Take each in each round; return the values of the rounds."""
    values = defaultdict(list)
    names = list(turns)
    for number in range(rounds):
        for name in names if number % 2 else names[::-1]:
            values[name].append(turns[name]())
    return values


def celery_worker(stand: Stand, env: dict[str, str]) -> Program:
    return stand.program(env, *CELERY, ready="Celery is ready")


# --- jobs that do nothing, as many as possible


def no_ops(stand: Stand, rounds: int) -> None:
    env, celery_env = stand.on_postgres("ours"), stand.on_postgres("celery")
    with (
        stand.pool(env),
        stand.client(env) as ours,
        celery_worker(stand, celery_env) as worker,
        stand.client(celery_env) as celery,
        closing(bare.Pools()) as pools,
    ):
        pid = worker.process.pid
        turns: dict[str, Callable[[int], float]] = {
            "ours": lambda number: ours.call("pool_rate", number),
            "Celery": lambda number: celery.call("celery_rate", number, pid),
            "commits": partial(bare.commits_per_second, env["DATABASE_URL"]),
            "slots": lambda number: ours.call("slots_rate", number),
            "pebble": pools.pebble_rate,
            "futures": pools.futures_rate,
        }
        rates = in_turns(rounds, {name: enough(turns[name]) for name in turns})
    report_no_ops(rates)


def enough(turn: Callable[[int], float]) -> Callable[[], float]:
    """Warm it up, and see how many jobs make a turn."""
    turn(100)
    return partial(turn, round(min(max(turn(200) * TURN_S, 100), 10_000)))


def report_no_ops(rates: Values) -> None:
    report.over_rounds(
        "no-op jobs per second, 2 processes",
        [
            ("ours, on PostgreSQL", rates["ours"], ""),
            ("Celery prefork, Redis, a row per job", rates["Celery"], ""),
            ("bare commits of one-row updates", rates["commits"], ""),
            ("our processes and pipes, no database", rates["slots"], ""),
            ("pebble.ProcessPool, no database", rates["pebble"], ""),
            ("concurrent.futures, no database", rates["futures"], ""),
            ("**ours : Celery**", ratios(rates["ours"], rates["Celery"]), "≥ 1.5"),
            ("**ours : commits**", ratios(rates["ours"], rates["commits"]), "≥ 0.3"),
            ("slots : pebble", ratios(rates["slots"], rates["pebble"]), ""),
        ],
    )


# --- one job at a time


def delays(stand: Stand, rounds: int) -> None:
    env, celery_env = stand.on_postgres("delays"), stand.on_postgres("celery_delays")
    sqlite_env = stand.on_sqlite()
    times: dict[str, list[float]] = defaultdict(list)
    with (
        stand.pool(env),
        stand.client(env) as postgres,
        stand.pool(sqlite_env),
        stand.client(sqlite_env) as sqlite,
        celery_worker(stand, celery_env),
        stand.client(celery_env) as celery,
    ):
        clients = {"PostgreSQL": postgres, "SQLite": sqlite, "Celery": celery}
        for number in range(rounds + 1):
            for name, client in clients.items():
                function = "celery_delays" if client is celery else "delays"
                measured = client.call(function, DELAYS)
                if number:  # the first round is to warm up
                    times[f"{name} start"] += [start for start, _ in measured]
                    times[f"{name} end"] += [end for _, end in measured]
                    if client is not celery:
                        times[f"{name} seen"] += client.call("seen", SEEN)
    report_delays(times)


def report_delays(times: Values) -> None:
    goals = {"PostgreSQL start": "p99 < 25", "SQLite start": "maximum < 250"}
    rows = [
        (f"{words}: {name}", times[f"{name} {moment}"], goals.get(f"{name} {moment}"))
        for moment, words in (
            ("start", "until it starts"),
            ("end", "until it has ended"),
            ("seen", "until a request that waits sees it"),
        )
        for name in ("PostgreSQL", "SQLite", "Celery")
        if f"{name} {moment}" in times
    ]
    number = len(times["PostgreSQL start"])
    title = f"ms after the submission to an idle pool, {number} jobs"
    report.over_all(title, [(name, values, goal or "") for name, values, goal in rows])


# --- one job on all processes


def speed_up(stand: Stand, rounds: int) -> None:
    env_1 = stand.on_postgres("one", COMPUTE_PROCESSES="1")
    env_2 = stand.on_postgres("two", COMPUTE_PROCESSES="2")
    with (
        stand.pool(env_1),
        stand.client(env_1) as one,
        stand.pool(env_2),
        stand.client(env_2) as two,
        closing(bare.Pools()) as pools,
    ):
        turns: dict[str, Callable[[int], float]] = {
            "1": lambda size: one.call("heavy_seconds", size),
            "2": lambda size: two.call("heavy_seconds", size),
            "bare 1": partial(pools.seconds_to_count, 1),
            "bare 2": partial(pools.seconds_to_count, 2),
        }
        for warm_up in turns.values():
            warm_up(HEAVY_SIZE // 8)
        seconds = in_turns(
            rounds, {name: partial(turns[name], HEAVY_SIZE) for name in turns}
        )
    report_speed_up(seconds)


def report_speed_up(seconds: Values) -> None:
    ours = ratios(seconds["1"], seconds["2"])
    # Two do twice the work of one.
    limit = [2 * value for value in ratios(seconds["bare 1"], seconds["bare 2"])]
    report.over_rounds(
        "a heavy computation, on 1 process and on 2",
        [
            ("seconds on 1", seconds["1"], ""),
            ("seconds on 2", seconds["2"], ""),
            ("**speed-up**", ours, "1.9"),
            ("speed-up of bare processes, each for itself", limit, ""),
            ("**ours : bare**", ratios(ours, limit), ""),
        ],
    )


# --- readers beside the jobs


def read_latency(stand: Stand, rounds: int) -> None:
    env = stand.on_postgres("site")
    stand.manage("load_sample", env=env)
    site = Site(Path(env["DATA_DIR"]), **env)
    taken = defaultdict(list)
    with (
        stand.client(env) as client,
        ProcessPoolExecutor(
            1, get_context("spawn"), initializer=reads.come_first
        ) as readers,
        ExitStack() as cleanup,
    ):
        cleanup.callback(site.stop)
        paths = paths_of_items(site.start())
        question = (reads.latencies, site.port, paths, READS_PER_S, READS_S)
        readers.submit(*question).result()
        for number in range(rounds):
            for state in ("idle", "busy") if number % 2 else ("busy", "idle"):
                if state == "busy":
                    client.call("saturate")
                taken[state].append(readers.submit(*question).result())
                if state == "busy":
                    client.call("relieve")
    report_reads(taken)


def paths_of_items(site: Site) -> list[str]:
    found = site.get("/api/v1/items?page_size=200").json()["results"]
    return [f"/api/v1/items/{item['id']}" for item in found]


def report_reads(taken: Mapping[str, list[list[float]]]) -> None:
    rows = []
    for share, goal in ((0.5, ""), (0.99, "≤ 1.5")):
        idle = [percentile(times, share) for times in taken["idle"]]
        busy = [percentile(times, share) for times in taken["busy"]]
        name = f"p{share * 100:.0f}"
        rows.append((f"{name}, idle pool, ms", idle, ""))
        rows.append((f"{name}, saturated pool, ms", busy, ""))
        rows.append((f"**{name}, saturated : idle**", ratios(busy, idle), goal))
    report.over_rounds(f"GET of an item, {READS_PER_S} a second", rows)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    # make passes SIGTERM on: end as for Ctrl-C, so that everything ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    print(f"{report.machine()}\n\n{rounds} rounds", flush=True)
    with Stand() as stand:
        for section in (no_ops, delays, speed_up, read_latency):
            report.say(section.__name__)
            section(stand, rounds)
    print(f"\n{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
