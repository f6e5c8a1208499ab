"""More searches than one web process can answer: who waits, and who is rejected.

First a closed loop: each client sends its next search when it has its answer. Then an
open loop, at multiples of the capacity that was found. No cache has any answer.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

import psycopg

from tests.load.bench.measuring import Bench, say
from tests.load.bench.peer import OURS, REST, Peer
from tests.load.bench.peers import Running, running
from tests.load.bench.results import RATIO, Curves, Goal, Piece, Row, Table, percentile
from tests.load.load_generator import Sample

TITLE = "Overload"
CLIENTS = (1, 4, 16, 64, 128, 256)
CLOSED_S = 1.5
CAPACITY_CLIENTS = 16
# The patience of anonymous reads; a later answer is of no use.
PATIENCE_S = 1.0
GOAL_CLIENTS = (16, 64, 128)
GOAL_LOAD = 5.0

CLIENTS_OVER = "anonymous clients in a closed loop"
LOAD_OVER = "searches sent, as multiples of the capacity"
# What is reported, and in which unit.
CLOSED = {
    "per_second": ("answers", "a second"),
    "p50": ("p50 of the answers", "ms"),
    "p99": ("p99 of the answers", "ms"),
    "answered": ("answered", "share of the requests"),
    "rejected": ("rejected with Retry-After", "share of the requests"),
    "errors": ("no answer, or another error", "share of the requests"),
}
OPEN = {
    "goodput": ("answers within the patience", "share of the capacity"),
    "p50": ("p50 of the admitted", "ms"),
    "p99": ("p99 of the admitted", "ms"),
    "rejected": ("rejected with Retry-After", "share of the requests"),
    "rejection": ("time to a rejection: median", "ms"),
    "errors": ("no answer, or another error", "share of the requests"),
    "lag": ("sent too late by the load generator: p99", "ms"),
}
DRAWN = ("goodput", "p99", "rejected")

type Curve = dict[float, list[float]]


class Target:
    """A server, and what came of the loads on it: one value of each round."""

    def __init__(self, bench: Bench, name: str, peer: Peer) -> None:
        self.bench, self.name, self.template = bench, name, peer.search()
        self.capacities: list[float] = []
        self.closed: dict[str, Curve] = {what: defaultdict(list) for what in CLOSED}
        self.open: dict[str, Curve] = {what: defaultdict(list) for what in OPEN}

    def measure(self) -> None:
        self._in_closed_loop(CAPACITY_CLIENTS)  # to warm up
        for clients in CLIENTS:
            say(f"  {self.name}: {clients} clients")
            record(
                self.closed, clients, report(self._in_closed_loop(clients), CLOSED_S)
            )
        before = first = self._capacity()
        for load in self.bench.scale.loads:
            say(f"  {self.name}: {load:g} times {first:.0f} a second")
            seconds = self.bench.scale.load_s
            arguments = self.template, load * first, seconds
            self.bench.generator.call("until_idle", self.template)
            seen = self.bench.generator.call("in_open_loop", *arguments)
            self.bench.generator.call("until_idle", self.template)
            # Neighbours on the machine change the capacity from second to second.
            after = self._capacity()
            capacity, before = mean([before, after]), after
            self.capacities.append(capacity)
            record(self.open, load, report(seen, seconds * capacity))

    def _in_closed_loop(self, clients: int) -> list[Sample]:
        arguments = self.template, clients, CLOSED_S
        seen: list[Sample] = self.bench.generator.call("in_closed_loop", *arguments)
        return seen

    def _capacity(self) -> float:
        return len(durations(self._in_closed_loop(CAPACITY_CLIENTS))) / CLOSED_S


def durations(seen: Sequence[Sample]) -> list[float]:
    """Return how long the answers took, in seconds."""
    return [one.took_s for one in seen if one.is_answered]


def report(seen: Sequence[Sample], possible: float) -> dict[str, float]:
    """Return what came of a load; `possible` is the divisor of rates."""
    answered = durations(seen)
    rejections = [
        one.took_s for one in seen if one.status == 503 and one.has_retry_after
    ]
    answers_or_none = answered or [float("inf")]
    return {
        "per_second": len(answered) / possible,
        "goodput": sum(one <= PATIENCE_S for one in answered) / possible,
        "answered": len(answered) / len(seen),
        "p50": percentile(answers_or_none, 0.5) * 1000,
        "p99": percentile(answers_or_none, 0.99) * 1000,
        "rejected": len(rejections) / len(seen),
        "rejection": percentile(rejections or [0], 0.5) * 1000,
        "errors": 1 - (len(answered) + len(rejections)) / len(seen),
        "lag": percentile([one.lag_s for one in seen], 0.99) * 1000,
    }


def record(curves: dict[str, Curve], place: float, found: Mapping[str, float]) -> None:
    for what, curve in curves.items():
        curve[place].append(found[what])


def measure(bench: Bench) -> Iterator[Piece]:
    with running(bench.testbed, Running.start_ours, Running.start_django) as peers:
        assert peers.site
        peers.site.manage("load_sample", check=True)
        level(peers)
        targets = [Target(bench, name, peers[name]) for name in (OURS, REST)]
        for number in range(bench.scale.few_rounds):
            for target in targets[:: 1 if number % 2 else -1]:
                target.measure()
    yield from pieces({target.name: target for target in targets})


def pieces(targets: Mapping[str, Target]) -> Iterator[Piece]:
    ours = targets[OURS]
    capacities = [Row(name, target.capacities) for name, target in targets.items()]
    yield Table("Searches, 1 web process", "a second", capacities)
    answered = [
        Row(f"{clients} clients", ours.closed["answered"][clients], Goal("≥", 1))
        for clients in GOAL_CLIENTS
    ]
    yield Table(f"Answered in a closed loop, {OURS}", RATIO, answered)
    goodput, p99 = (ours.open[what][GOAL_LOAD] for what in ("goodput", "p99"))
    at = f"{GOAL_LOAD:g} times the capacity, {OURS}"
    yield Table(at, RATIO, [Row("goodput", goodput, Goal("≥", 0.85))])
    slowest = Row("p99 of the admitted", p99, Goal("≤", PATIENCE_S * 1000))
    yield Table(at, "ms", [slowest])
    for loop, over, texts in (
        ("closed", CLIENTS_OVER, CLOSED),
        ("open", LOAD_OVER, OPEN),
    ):
        for what, (title, unit) in texts.items():
            lines = {name: getattr(t, loop)[what] for name, t in targets.items()}
            is_drawn = loop == "open" and what in DRAWN
            yield Curves(title, over, unit, lines, is_drawn=is_drawn)


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
