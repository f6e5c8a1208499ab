"""One item, read over and over: anonymously, and by token."""

from collections.abc import Iterator

from tests.load.bench import comparing
from tests.load.bench.comparing import LATENCY_PER_S
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import (
    BARE,
    COPY,
    FASTAPI,
    NGINX,
    NINJA,
    OURS,
    REST,
    Peer,
    Running,
    running,
)
from tests.load.bench.results import Goal, Missing, Piece

TITLE = "Reading one item"
ALL = (OURS, FASTAPI, NINJA, REST, BARE, COPY, NGINX)


def measure(bench: Bench) -> Iterator[Piece]:
    starts = (
        Running.start_ours,
        Running.start_nginx,
        Running.start_fastapi,
        Running.start_bare,
        Running.start_copy,
        Running.start_django,
    )
    with running(bench.testbed, *starts) as peers:
        for why in peers.missing:
            yield Missing(NGINX, why)
        title, goals = "GET of a hot item, anonymous", {FASTAPI: Goal("≥", 2.7)}
        compared = {name: peers[name] for name in ALL if name in peers}
        yield from comparing.rates(bench, title, compared, Peer.read, goals)
        title = f"{title}, {LATENCY_PER_S} a second"
        yield comparing.latencies(bench, title, compared, Peer.read)
        title, goals = "GET of a hot item by token", {REST: Goal("≥", 3)}
        compared = {name: peers[name] for name in (OURS, NINJA, REST)}
        template = Peer.read_authenticated
        yield from comparing.rates(bench, title, compared, template, goals)
