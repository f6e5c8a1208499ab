"""One item, read over and over: by strangers, and by somebody who is signed in."""

from collections.abc import Iterator

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import (
    BARE,
    FASTAPI,
    NGINX,
    NINJA,
    OURS,
    REST,
    Running,
    running,
)
from tests.load.bench.results import Goal, Missing, Piece

TITLE = "Reading one item"
ALL = (OURS, FASTAPI, NINJA, REST, BARE, NGINX)
SIGNED_IN = (OURS, NINJA, REST)


def measure(bench: Bench) -> Iterator[Piece]:
    starts = (
        Running.start_ours,
        Running.start_nginx,
        Running.start_fastapi,
        Running.start_bare,
        Running.start_django,
    )
    with running(bench.stand, *starts) as peers:
        for why in peers.missing:
            yield Missing(NGINX, why)
        by_all = {name: peers[name].read() for name in ALL if name in peers}
        by_token = {name: peers[name].read_signed_in() for name in SIGNED_IN}
        yield from comparing.rates(
            bench,
            "GET of a hot item, nobody signed in",
            by_all,
            {FASTAPI: Goal("≥", 3)},
        )
        yield from comparing.rates(
            bench, "GET of a hot item by token", by_token, {REST: Goal("≥", 3)}
        )
        per_second = comparing.LATENCY_PER_S
        yield comparing.latencies(bench, f"The same GET, {per_second} a second", by_all)
