"""The same question to several servers, in turns."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain

from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.peers import OURS
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

type Questions = Mapping[str, Question]


def rates(
    bench: Bench, title: str, questions: Questions, goals: Mapping[str, Goal]
) -> Iterator[Piece]:
    """Ask as fast as they answer; the goals are of this site's ratio to a peer."""

    def ask(question: Question, seconds: float) -> float:
        return bench.generator.call("rate", question, seconds)

    for question in questions.values():
        ask(question, 1.0)  # to warm up
    turns = {
        name: partial(ask, question, bench.scale.turn_s)
        for name, question in questions.items()
    }
    found = in_turns(bench.scale.rounds, turns)
    rows = [Row(name, found[name]) for name in questions]
    yield Table(title, "answers a second", rows, is_drawn=True)
    yield Table(
        title,
        RATIO,
        [
            Row(
                f"this site to {name}",
                ratios(found[OURS], found[name]),
                goals.get(name),
            )
            for name in questions
            if name != OURS
        ],
    )


def latencies(bench: Bench, title: str, questions: Questions) -> Distribution:
    """Ask as often as the slowest can answer."""
    turns = {
        name: partial(
            bench.generator.call,
            "latencies", question, LATENCY_PER_S, bench.scale.turn_s,
        )
        for name, question in questions.items()
    }  # fmt: skip
    found = in_turns(bench.scale.few_rounds, turns)
    rows = [Row(name, list(chain(*found[name]))) for name in questions]
    return Distribution(title, "ms", rows, is_drawn=True)
