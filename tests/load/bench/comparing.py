"""Comparison of servers by the same requests, in turns."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain

from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.peers import OURS, Peer
from tests.load.bench.results import RATIO, Distribution, Goal, Row, Table, ratios
from tests.load.request_template import RequestTemplate

# A rate that the slowest server sustains easily.
LATENCY_PER_S = 100

type Peers = Mapping[str, Peer]
type Template = Callable[[Peer], RequestTemplate]


def rates(
    bench: Bench,
    title: str,
    peers: Peers,
    template_of: Template,
    goals: Mapping[str, Goal],
    own_goal: Goal | None = None,
    turn_s: float = 0.0,
) -> Iterator[Table]:
    """Measure closed-loop rates; goals are ratios of this site to a peer.

    `own_goal` is one for the rate of this site; `turn_s` is how long a turn has to be
    for some responses of the slowest.
    """
    turn_s = max(turn_s, bench.scale.turn_s)

    def turn(peer: Peer, seconds: float) -> tuple[float, float]:
        """Return responses per second, and µs of processor time per response."""
        busy_s = peer.busy_s()
        per_second = bench.generator.call("rate", template_of(peer), seconds)
        return per_second, (peer.busy_s() - busy_s) / per_second / seconds * 1e6

    for peer in peers.values():  # to warm up: a first response may take seconds
        bench.generator.call("one_by_one", template_of(peer), 5)
        turn(peer, max(1.0, turn_s / 2))
    turns = {name: partial(turn, peer, turn_s) for name, peer in peers.items()}
    found = in_turns(bench.scale.rounds, turns)
    speeds = {name: [speed for speed, _ in of] for name, of in found.items()}
    own = {OURS: own_goal}
    rows = [Row(name, of, own.get(name)) for name, of in speeds.items()]
    yield Table(title, "responses a second", rows)
    rows = [Row(name, [cost for _, cost in of]) for name, of in found.items()]
    yield Table(title, "µs of processor time per response", rows)
    rows = [
        Row(f"{OURS} to {name}", ratios(speeds[OURS], of), goals.get(name))
        for name, of in speeds.items()
        if name != OURS
    ]
    yield Table(title, RATIO, rows)


def latencies(
    bench: Bench, title: str, peers: Peers, template_of: Template
) -> Distribution:
    """Measure open-loop latencies at a common rate."""
    call, seconds = bench.generator.call, bench.scale.turn_s
    turns = {
        name: partial(call, "latencies", template_of(peer), LATENCY_PER_S, seconds)
        for name, peer in peers.items()
    }
    found = in_turns(bench.scale.few_rounds, turns)
    rows = [Row(name, list(chain(*of))) for name, of in found.items()]
    return Distribution(title, "ms", rows)
