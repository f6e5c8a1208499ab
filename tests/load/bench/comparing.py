"""The same question to several servers, in turns."""

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
from tests.load.questions import Question

# What the slowest of them can do with ease.
LATENCY_PER_S = 100

type Peers = Mapping[str, Peer]
type Ask = Callable[[Peer], Question]


class Turn(NamedTuple):
    per_second: float
    cpu_us: float  # of processor time for an answer


def rates(
    bench: Bench, title: str, peers: Peers, ask: Ask, goals: Mapping[str, Goal]
) -> Iterator[Piece]:
    """Ask as fast as they answer; the goals are of this site's ratio to a peer."""
    for peer in peers.values():
        turn(bench, peer, ask(peer), 1.0)  # to warm up
    turns = {
        name: partial(turn, bench, peer, ask(peer), bench.scale.turn_s)
        for name, peer in peers.items()
    }
    found = in_turns(bench.scale.rounds, turns)
    speeds = {name: [one.per_second for one in of] for name, of in found.items()}
    costs = {name: [one.cpu_us for one in of] for name, of in found.items()}
    yield Table(title, "answers a second", rows_of(speeds), is_drawn=True)
    yield Table(title, "µs of processor time for an answer", rows_of(costs))
    yield Table(
        title,
        RATIO,
        [
            Row(f"this site to {name}", ratios(speeds[OURS], of), goals.get(name))
            for name, of in speeds.items()
            if name != OURS
        ],
    )


def turn(bench: Bench, peer: Peer, question: Question, seconds: float) -> Turn:
    busy_s = peer.busy_s()
    per_second = bench.generator.call("rate", question, seconds)
    answers = per_second * seconds
    return Turn(per_second, (peer.busy_s() - busy_s) / answers * 1e6)


def rows_of(values: Mapping[str, list[float]]) -> list[Row]:
    return [Row(name, of) for name, of in values.items()]


def latencies(bench: Bench, title: str, peers: Peers, ask: Ask) -> Distribution:
    """Ask as often as the slowest can answer."""
    turns = {
        name: partial(
            bench.generator.call,
            "latencies", ask(peer), LATENCY_PER_S, bench.scale.turn_s,
        )
        for name, peer in peers.items()
    }  # fmt: skip
    found = in_turns(bench.scale.few_rounds, turns)
    rows = [Row(name, list(chain(*found[name]))) for name in peers]
    return Distribution(title, "ms", rows, is_drawn=True)
