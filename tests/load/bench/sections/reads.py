"""One item, read over and over: anonymously, and by token."""

from collections.abc import Iterator

from tests.load.bench import comparing
from tests.load.bench.comparing import LATENCY_PER_S as PER_S
from tests.load.bench.measuring import Bench
from tests.load.bench.peer import BARE, FASTAPI, NGINX, NINJA, OURS, REST, Peer
from tests.load.bench.peers import Running, running
from tests.load.bench.results import Goal, Missing, Piece

TITLE = "Reading one item"
ALL = (OURS, FASTAPI, NINJA, REST, BARE, NGINX)
AUTHENTICATED = (OURS, NINJA, REST)


def measure(bench: Bench) -> Iterator[Piece]:
    starts = (
        Running.start_ours,
        Running.start_nginx,
        Running.start_fastapi,
        Running.start_bare,
        Running.start_django,
    )
    with running(bench.testbed, *starts) as peers:
        for why in peers.missing:
            yield Missing(NGINX, why)
        ours_and_all = {name: peers[name] for name in ALL if name in peers}
        with_tokens = {name: peers[name] for name in AUTHENTICATED}
        title = "GET of a hot item, anonymous"
        goals = {FASTAPI: Goal("≥", 2.5)}
        yield from comparing.rates(bench, title, ours_and_all, Peer.read, goals)
        yield comparing.latencies(
            bench, f"{title}, {PER_S} a second", ours_and_all, Peer.read
        )
        title, goals = "GET of a hot item by token", {REST: Goal("≥", 3)}
        yield from comparing.rates(
            bench, title, with_tokens, Peer.read_authenticated, goals
        )
