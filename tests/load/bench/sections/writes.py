"""Items written, each write on the disk before it is answered."""

from collections.abc import Iterator
from operator import methodcaller

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import MANY, NINJA, OURS, REST, Peer, Running, running
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
