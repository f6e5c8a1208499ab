"""Items written, each write on the disk before it is answered."""

from collections.abc import Iterator

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import BULK, NINJA, OURS, REST, Peer, Running, running
from tests.load.bench.results import Goal, Piece

TITLE = "Writing items"
NAMES = (OURS, REST, NINJA)


def measure(bench: Bench) -> Iterator[Piece]:
    kinds = {
        "POST of an item": (Peer.create, {REST: Goal("≥", 1)}),
        "PUT of an item": (Peer.update, {}),
        f"POST of {BULK} items at once": (Peer.create_many, {}),
    }
    with running(bench.stand, Running.start_ours, Running.start_django) as peers:
        for title, (question, goals) in kinds.items():
            questions = {name: question(peers[name]) for name in NAMES}
            yield from comparing.rates(bench, title, questions, goals)
