"""More searches than one web process can do, from those who come all the same.

First what it can do; then what it does at fractions and multiples of that. An answer
counts that came within a second, and no cache has any of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median

import psycopg

from tests.load.arrivals import NO_ANSWER, Seen
from tests.load.bench.measuring import Bench, say
from tests.load.bench.peer import OURS, REST, Peer
from tests.load.bench.peers import Running, running
from tests.load.bench.results import (
    RATIO,
    Curves,
    Goal,
    Piece,
    Row,
    Table,
    percentile,
)

TITLE = "Too many requests"
CLIENTS = (4, 8, 16)
CAPACITY_S = 1.5
# An answer that comes later is of no use.
SOON_S = 1.0
UNLOADED = 0.3
OVER = "searches asked for, as multiples of what it can do"
# What is told of each load, and what of it is aimed at for this site at 5 times.
TOLD = {
    "goodput": ("answers within a second", "share of what it can do"),
    "p99": ("p99 of the answers", "times the p99 without load"),
    "p50": ("p50 of the answers", "times the p99 without load"),
    "refused": ("refused with Retry-After", "share of the requests"),
    "refusal": ("how long a refusal takes: median", "ms"),
    "silent": ("given up after 5 s, or cut off", "share of the requests"),
    "errors": ("other answers", "share of the requests"),
    "lag": ("sent too late by the load generator: p99", "ms"),
}
GOAL_AT = 5.0
GOALS = {"goodput": Goal("≥", 0.9), "p99": Goal("≤", 3)}
DRAWN = ("goodput", "p99", "refused")


class Target:
    """A server, and what comes of loads on it: one value of each round."""

    def __init__(self, bench: Bench, name: str, peer: Peer) -> None:
        self.bench, self.name, self.question = bench, name, peer.search()
        self.values: dict[str, list[float]] = defaultdict(list)
        self.told: dict[str, dict[float, list[float]]] = {
            what: defaultdict(list) for what in TOLD
        }

    def capacity(self, clients: int) -> float:
        """Return how many a second it can answer, to so many clients at a time."""
        load = self.question, clients, CAPACITY_S
        seen = self.bench.generator.call("in_closed_loop", *load)
        return goodput(seen, CAPACITY_S)

    def under(self, per_second: float) -> list[Seen]:
        self.bench.generator.call("until_calm", self.question)
        load = self.question, per_second, self.bench.scale.load_s
        return self.bench.generator.call("in_open_loop", *load)

    def measure(self) -> None:
        self.capacity(max(CLIENTS))  # to warm up
        found = {clients: self.capacity(clients) for clients in CLIENTS}
        best = max(found, key=found.__getitem__)
        base = self._measure_unloaded(UNLOADED * found[best])
        before = first = self.capacity(best)
        for load in self.bench.scale.loads:
            say(f"  {self.name}: {load:g} times {first:.0f} a second")
            seen = self.under(load * first)
            self.bench.generator.call("until_calm", self.question)
            # Its neighbours change from one second to the next what it can do.
            after = self.capacity(best)
            capacity = mean([before, after])
            self.values["capacity"].append(capacity)
            told = tell(seen, capacity * self.bench.scale.load_s, base)
            for what, value in told.items():
                self.told[what][load].append(value)
            before = after

    def _measure_unloaded(self, per_second: float) -> float:
        """Return the p99 of its answers, in seconds."""
        answers = took(self.under(per_second))
        base = percentile(answers, 0.99)
        self.values["p50"].append(percentile(answers, 0.5) * 1000)
        self.values["p99"].append(base * 1000)
        return base


def took(seen: Sequence[Seen]) -> list[float]:
    """Return how long the answers took, in seconds."""
    return [one.took_s for one in seen if one.is_answered]


def goodput(seen: Sequence[Seen], seconds: float) -> float:
    return sum(one <= SOON_S for one in took(seen)) / seconds


def tell(seen: Sequence[Seen], possible: float, base: float) -> dict[str, float]:
    """Return what came of a load; `possible` answers there could have been."""
    refused = [one.took_s for one in seen if one.status == 503 and one.says_when]
    answered = took(seen) or [float("inf")]
    silent = sum(one.status == NO_ANSWER for one in seen)
    errors = len(seen) - len(took(seen)) - len(refused) - silent
    return {
        "goodput": goodput(seen, possible),
        "p50": percentile(answered, 0.5) / base,
        "p99": percentile(answered, 0.99) / base,
        "refused": len(refused) / len(seen),
        "refusal": median(refused or [0]) * 1000,
        "silent": silent / len(seen),
        "errors": errors / len(seen),
        "lag": percentile([one.lag_s for one in seen], 0.99) * 1000,
    }


def measure(bench: Bench) -> Iterator[Piece]:
    with running(bench.stand, Running.start_ours, Running.start_django) as peers:
        assert peers.site
        peers.site.manage("load_sample", check=True)
        level(peers)
        targets = [Target(bench, name, peers[name]) for name in (OURS, REST)]
        for number in range(bench.scale.few_rounds):
            for target in targets[:: 1 if number % 2 else -1]:
                target.measure()
    yield from pieces({target.name: target for target in targets})


def pieces(targets: Mapping[str, Target]) -> Iterator[Piece]:
    rows = {
        "what it can do, a second": "capacity",
        f"at {UNLOADED:g} of it: p50, ms": "p50",
        f"at {UNLOADED:g} of it: p99, ms": "p99",
    }
    yield Table(
        "Searches",
        "1 web process",
        [
            Row(f"{name}: {row}", target.values[what])
            for name, target in targets.items()
            for row, what in rows.items()
        ],
    )
    ours = targets[OURS].told
    goals = [
        Row(f"{TOLD[what][0]}, {TOLD[what][1]}", ours[what][GOAL_AT], goal)
        for what, goal in GOALS.items()
    ]
    yield Table(f"{GOAL_AT:g} times as many searches, {OURS}", RATIO, goals)
    for what, (title, unit) in TOLD.items():
        lines = {name: target.told[what] for name, target in targets.items()}
        yield Curves(title, OVER, unit, lines, is_drawn=what in DRAWN)


def level(peers: Running) -> None:
    """Give both the same items."""
    ours, theirs = peers[OURS].database, peers[REST].database
    read = "COPY (SELECT name, description, now(), now() FROM items_item) TO STDOUT"
    columns = "name, description, created_at, updated_at"
    with psycopg.connect(ours) as source, psycopg.connect(theirs) as sink:
        sink.execute("TRUNCATE django_peer_item")
        write = f"COPY django_peer_item ({columns}) FROM STDIN"
        with source.cursor().copy(read) as rows, sink.cursor().copy(write) as into:
            for piece in rows:
                into.write(piece)
    for url in (ours, theirs):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
