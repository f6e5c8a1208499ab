"""The web process beside its peer, on this machine, when too many ask at once.

    make bench-overload [ARGS="[ROUNDS] [--most TIMES]"]

Searches that nobody has asked before, so that no cache answers. First what one web
process can do; then answers at fractions and multiples of that, from clients who come
whether or not they are answered. An answer counts that came within a second. Prints
Markdown.
"""

import argparse
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psutil
import psycopg

from tests.load import arrivals, report
from tests.load.arrivals import NO_ANSWER, Seen
from tests.load.reads import come_first
from tests.load.report import percentile
from tests.load.stand import Stand
from tests.load.web import Ours, Plain

ROUNDS = 3
CLIENTS = (4, 8, 16)
CAPACITY_S = 2.0
LOAD_S = 8.0
# An answer that comes later is of no use.
SOON_S = 1.0
UNLOADED = 0.3
TIMES = (0.5, 1.0, 2.0, 5.0)
GOALS = {"goodput": (5.0, "≥ 0.9"), "p99": (5.0, "≤ 3")}


@contextmanager
def servers_cpu() -> Iterator[None]:
    """Start in the block what the generator is to leave alone."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def put_first(processes: Iterable[psutil.Process]) -> None:
    """Let nothing else on this machine delay them, where that may be asked for."""
    for process in processes:
        with suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text("-10")


def begin_generator() -> None:
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus - {min(cpus)} or cpus)
    come_first()


class Target:
    """A server, and what comes of loads on it: values by name, one of each round."""

    def __init__(self, name: str, items: str, generator: Executor) -> None:
        address = urlsplit(items)
        assert address.port
        self.name, self.generator = name, generator
        self.where = address.port, address.path
        self.values: dict[str, list[float]] = defaultdict(list)

    def capacity(self) -> float:
        """Return how many a second it can answer, to as many clients as it likes."""
        return max(map(self._answers_per_second, CLIENTS))

    def _answers_per_second(self, clients: int) -> float:
        question = arrivals.in_closed_loop, *self.where, clients, CAPACITY_S
        return goodput(self.generator.submit(*question).result(), CAPACITY_S)

    def under(self, per_second: float) -> list[Seen]:
        self.generator.submit(arrivals.until_calm, *self.where).result()
        question = arrivals.in_open_loop, *self.where, per_second, LOAD_S
        return self.generator.submit(*question).result()

    def measure(self, loads: Sequence[float]) -> None:
        self.capacity()  # to warm up
        capacity = self.capacity()
        unloaded = took(self.under(UNLOADED * capacity))
        base = percentile(unloaded, 0.99)
        self.values["unloaded p50"].append(percentile(unloaded, 0.5) * 1000)
        self.values["unloaded p99"].append(base * 1000)
        seen = {}
        for load in loads:
            report.say(f"{self.name}: {load:g} times {capacity:.0f} a second")
            seen[load] = self.under(load * capacity)
        self.generator.submit(arrivals.until_calm, *self.where).result()
        capacity = max(capacity, self.capacity())  # its neighbours may have changed
        self.values["capacity"].append(capacity)
        for load in loads:
            for what, value in told(seen[load], capacity, base).items():
                self.values[f"{load:g} {what}"].append(value)


def took(seen: Sequence[Seen]) -> list[float]:
    """Return how long the answers took, in seconds."""
    return [one.took_s for one in seen if one.status == 200]


def goodput(seen: Sequence[Seen], seconds: float) -> float:
    return sum(one <= SOON_S for one in took(seen)) / seconds


def told(seen: Sequence[Seen], capacity: float, base: float) -> dict[str, float]:
    refused = [one.took_s for one in seen if one.status == 503 and one.says_when]
    answered = took(seen) or [float("inf")]
    silent = sum(one.status == NO_ANSWER for one in seen)
    errors = len(seen) - len(took(seen)) - len(refused) - silent
    return {
        "goodput": goodput(seen, LOAD_S) / capacity,
        "p50": percentile(answered, 0.5) / base,
        "p99": percentile(answered, 0.99) / base,
        "refused": len(refused) / len(seen),
        "refusal": median(refused or [0]) * 1000,
        "silent": silent / len(seen),
        "errors": errors / len(seen),
        "lag": percentile([one.lag_s for one in seen], 0.99) * 1000,
    }


NAMES = {
    "goodput": "goodput : capacity",
    "p50": "p50 of answers : p99 unloaded",
    "p99": "p99 of answers : p99 unloaded",
    "refused": "share refused (503 with Retry-After)",
    "refusal": "median of a refusal, ms",
    "silent": "share given up after 5 s, or cut off",
    "errors": "share of other answers",
    "lag": "sent too late by the generator: p99, ms",
}


def tell(target: Target, loads: Sequence[float], has_goals: bool) -> None:
    values = target.values
    rows: list[report.Row] = [
        ("capacity, answers a second", values["capacity"], ""),
        (f"at {UNLOADED:g} of it: p50, ms", values["unloaded p50"], ""),
        (f"at {UNLOADED:g} of it: p99, ms", values["unloaded p99"], ""),
    ]
    for load in loads:
        for what, name in NAMES.items():
            at, goal = GOALS.get(what, (0.0, ""))
            if at != load or not has_goals:
                goal = ""
            name = f"**{name}**" if goal else name
            rows.append((f"{load:g}x: {name}", values[f"{load:g} {what}"], goal))
    report.over_rounds(f"{target.name}, searches, 1 web process", rows)


def level(stand: Stand) -> None:
    """Give both the same items."""
    ours, theirs = (stand.postgres.url(name) for name in ("ours", "plain"))
    read = "COPY (SELECT name, description, now(), now() FROM items_item) TO STDOUT"
    columns = "name, description, created_at, updated_at"
    with psycopg.connect(ours) as source, psycopg.connect(theirs) as sink:
        write = f"COPY drf_peer_item ({columns}) FROM STDIN"
        with source.cursor().copy(read) as rows, sink.cursor().copy(write) as into:
            for piece in rows:
                into.write(piece)
    for url in (ours, theirs):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")


def measure(stand: Stand, rounds: int, loads: Sequence[float]) -> list[Target]:
    with (
        ExitStack() as stack,
        ProcessPoolExecutor(
            1, get_context("spawn"), initializer=begin_generator
        ) as generator,
    ):
        with servers_cpu():
            ours, plain = Ours(stand, stack), Plain(stand, stack)
        assert ours.site.manage("load_sample").returncode == 0
        level(stand)
        put_first(psutil.Process().children(recursive=True))
        targets = [
            Target("ours", ours.items, generator),
            Target("ModelViewSet", plain.items, generator),
        ]
        for number in range(rounds):
            for target in targets if number % 2 else targets[::-1]:
                target.measure(loads)
        return targets


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    parser.add_argument("--most", type=float, default=max(TIMES))
    options = parser.parse_args()
    loads = sorted({load for load in TIMES if load < options.most} | {options.most})
    # make passes SIGTERM on: end as for Ctrl-C, so that everything ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    print(f"{report.machine()}\n\n{options.rounds} rounds", flush=True)
    with Stand() as stand:
        for target in measure(stand, options.rounds, loads):
            tell(target, loads, has_goals=target.name == "ours")
    print(f"\n{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
