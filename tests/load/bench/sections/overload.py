"""More searches than one web process can answer: who waits, and who is rejected.

First a closed loop: each client sends its next search when it has its answer. Then an
open loop, at multiples of the capacity that was found. No cache has any answer.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import mean

from tests.load.bench.measuring import Bench, print_progress
from tests.load.bench.peers import OURS, REST, Peer, Running, running
from tests.load.bench.results import RATIO, Curves, Goal, Piece, Row, Table, percentile
from tests.load.load_generator import Sample

TITLE = "Overload"
ITEMS = 10_000
CLIENTS = (1, 4, 16, 64, 128, 256)
CLOSED_S = 1.5
CAPACITY_CLIENTS = 16
# The patience of anonymous reads; a later answer is of no use.
PATIENCE_S = 1.0
GOAL_CLIENTS = (16, 64, 128)
GOAL_LOAD = 5.0

CLOSED, OPEN = (
    "anonymous clients in a closed loop",
    "searches sent, as multiples of the capacity",
)
SHARE = "share of the requests"
# What is reported: in which loop, its title and unit.
REPORTED = (
    (CLOSED, "per_second", "answers", "a second"),
    (CLOSED, "p50", "p50 of the answers", "ms"),
    (CLOSED, "p99", "p99 of the answers", "ms"),
    (CLOSED, "answered", "answered", SHARE),
    (CLOSED, "rejected", "rejected with Retry-After", SHARE),
    (CLOSED, "errors", "no answer, or another error", SHARE),
    (OPEN, "goodput", "answers within the patience", "share of the capacity"),
    (OPEN, "p50", "p50 of the admitted", "ms"),
    (OPEN, "p99", "p99 of the admitted", "ms"),
    (OPEN, "rejected", "rejected with Retry-After", SHARE),
    (OPEN, "rejection", "time to a rejection: median", "ms"),
    (OPEN, "errors", "no answer, or another error", SHARE),
    (OPEN, "lag", "sent too late by the load generator: p99", "ms"),
)


def measure(bench: Bench) -> Iterator[Piece]:
    starts = (
        partial(Running.start_ours, items=ITEMS),
        partial(Running.start_django, items=ITEMS),
    )
    with running(bench.testbed, *starts) as peers:
        targets = {name: Target(bench, name, peers[name]) for name in (OURS, REST)}
        for number in range(bench.scale.few_rounds):
            for target in list(targets.values())[:: 1 if number % 2 else -1]:
                target.measure()
    ours = targets[OURS]
    rows = [Row(name, target.capacities) for name, target in targets.items()]
    yield Table("Searches, 1 web process", "a second", rows)
    answered = ours.found[CLOSED, "answered"]
    rows = [Row(f"{n} clients", answered[n], Goal("≥", 1)) for n in GOAL_CLIENTS]
    yield Table(f"Answered in a closed loop, {OURS}", RATIO, rows)
    title = f"{GOAL_LOAD:g} times the capacity, {OURS}"
    goodput, p99 = (ours.found[OPEN, what][GOAL_LOAD] for what in ("goodput", "p99"))
    yield Table(title, RATIO, [Row("goodput", goodput, Goal("≥", 0.88))])
    row = Row("p99 of the admitted", p99, Goal("≤", PATIENCE_S * 1000))
    yield Table(title, "ms", [row])
    for over, what, title, unit in REPORTED:
        lines = {name: target.found[over, what] for name, target in targets.items()}
        yield Curves(title, over, unit, lines)


class Target:
    """A server, and the effect of the loads on it."""

    def __init__(self, bench: Bench, name: str, peer: Peer) -> None:
        self.bench, self.name, self.template = bench, name, peer.search()
        self.capacities: list[float] = []
        # By loop and figure: by clients or load, a value of each round.
        self.found: dict[tuple[str, str], dict[float, list[float]]] = {
            (over, what): defaultdict(list) for over, what, *_ in REPORTED
        }

    def measure(self) -> None:
        call, seconds = self.bench.generator.call, self.bench.scale.load_s
        self._capacity()  # to warm up
        for clients in CLIENTS:
            print_progress(f"  {self.name}: {clients} clients")
            seen = call("in_closed_loop", self.template, clients, CLOSED_S)
            self._record(CLOSED, clients, figures(seen, CLOSED_S))
        before = first = self._capacity()
        for load in self.bench.scale.loads:
            print_progress(f"  {self.name}: {load:g} times {first:.0f} a second")
            call("until_idle", self.template)
            seen = call("in_open_loop", self.template, load * first, seconds)
            call("until_idle", self.template)
            # Other programs on the machine change the capacity from second to second.
            after = self._capacity()
            capacity, before = mean([before, after]), after
            self.capacities.append(capacity)
            self._record(OPEN, load, figures(seen, seconds * capacity))

    def _capacity(self) -> float:
        """Return the answers a second."""
        arguments = self.template, CAPACITY_CLIENTS, CLOSED_S
        seen = self.bench.generator.call("in_closed_loop", *arguments)
        return sum(one.is_answered for one in seen) / CLOSED_S

    def _record(self, over: str, place: float, values: dict[str, float]) -> None:
        for (loop, what), curve in self.found.items():
            if loop == over:
                curve[place].append(values[what])


def figures(seen: Sequence[Sample], possible: float) -> dict[str, float]:
    """Return the figures of a load; `possible` is the divisor of rates."""
    answered = [one.took_s for one in seen if one.is_answered]
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
