"""Items written, each write on the disk before it is answered."""

from collections.abc import Iterator

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peer import BULK, NINJA, OURS, REST, Peer
from tests.load.bench.peers import Running, running
from tests.load.bench.results import Goal, Piece

TITLE = "Writing items"
NAMES = (OURS, REST, NINJA)


def measure(bench: Bench) -> Iterator[Piece]:
    kinds = {
        "POST of an item": (Peer.create, {REST: Goal("≥", 1)}),
        "PUT of an item": (Peer.update, {}),
        f"POST of {BULK} items at once": (Peer.create_many, {}),
    }
    with running(bench.testbed, Running.start_ours, Running.start_django) as peers:
        chosen = {name: peers[name] for name in NAMES}
        for title, (ask, goals) in kinds.items():
            yield from comparing.rates(bench, title, chosen, ask, goals)
