"""Comparison of servers by the same requests, in turns."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.peer import OURS, Peer
from tests.load.bench.results import (
    RATIO,
    Distribution,
    Goal,
    Piece,
    Row,
    Table,
    ratios,
)
from tests.load.request_template import RequestTemplate

# A rate that the slowest server sustains easily.
LATENCY_PER_S = 100

type Peers = Mapping[str, Peer]
type Template = Callable[[Peer], RequestTemplate]


class Turn(NamedTuple):
    per_second: float
    cpu_us: float  # of processor time per response


def rates(
    bench: Bench,
    title: str,
    peers: Peers,
    template_of: Template,
    goals: Mapping[str, Goal],
) -> Iterator[Piece]:
    """Measure closed-loop rates; goals are ratios of this site to a peer."""
    for peer in peers.values():
        turn(bench, peer, template_of(peer), 1.0)  # to warm up
    turns = {
        name: partial(turn, bench, peer, template_of(peer), bench.scale.turn_s)
        for name, peer in peers.items()
    }
    found = in_turns(bench.scale.rounds, turns)
    speeds = {name: [one.per_second for one in of] for name, of in found.items()}
    costs = {name: [one.cpu_us for one in of] for name, of in found.items()}
    yield Table(title, "responses a second", rows_of(speeds), is_drawn=True)
    yield Table(title, "µs of processor time per response", rows_of(costs))
    yield Table(
        title,
        RATIO,
        [
            Row(f"this site to {name}", ratios(speeds[OURS], of), goals.get(name))
            for name, of in speeds.items()
            if name != OURS
        ],
    )


def turn(bench: Bench, peer: Peer, template: RequestTemplate, seconds: float) -> Turn:
    busy_s = peer.busy_s()
    per_second = bench.generator.call("rate", template, seconds)
    answers = per_second * seconds
    return Turn(per_second, (peer.busy_s() - busy_s) / answers * 1e6)


def rows_of(values: Mapping[str, list[float]]) -> list[Row]:
    return [Row(name, of) for name, of in values.items()]


def latencies(
    bench: Bench, title: str, peers: Peers, template_of: Template
) -> Distribution:
    """Measure open-loop latencies at a common rate."""
    turns = {
        name: partial(
            bench.generator.call,
            "latencies", template_of(peer), LATENCY_PER_S, bench.scale.turn_s,
        )
        for name, peer in peers.items()
    }  # fmt: skip
    found = in_turns(bench.scale.few_rounds, turns)
    rows = [Row(name, list(chain(*found[name]))) for name in peers]
    return Distribution(title, "ms", rows, is_drawn=True)
