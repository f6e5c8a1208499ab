"""Items written, each write on the disk before it is answered."""

from collections.abc import Iterator
from dataclasses import replace
from operator import methodcaller

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import (
    MANY,
    NINJA,
    OURS,
    REST,
    REST_BY_ROW,
    Peer,
    Running,
    running,
)
from tests.load.bench.results import Goal, Piece

TITLE = "Writing items"


def measure(bench: Bench) -> Iterator[Piece]:
    with running(bench.testbed, Running.start_ours, Running.start_django) as peers:
        compared = {name: peers[name] for name in (OURS, REST, NINJA)}
        for title, template, goals in (
            ("POST of an item", Peer.create, {REST: Goal("≥", 1)}),
            ("PUT of an item", Peer.update, {}),
        ):
            yield from comparing.rates(bench, title, compared, template, goals)
        for number in MANY:
            yield from comparing.rates(
                bench,
                f"POST of {number:,} items at once",
                compared,
                methodcaller("create_many", number),
                {REST: Goal("≥", 2)},
                turn_s=number / 200,
            )
        by_row = {
            OURS: peers[OURS],
            REST_BY_ROW: replace(peers[REST], bulk="documented"),
        }
        yield from comparing.rates(
            bench,
            f"POST of {MANY[0]:,} items at once, beside what DRF's documentation has",
            by_row,
            methodcaller("create_many", MANY[0]),
            {REST_BY_ROW: Goal("≥", 2)},
            turn_s=5,
        )
