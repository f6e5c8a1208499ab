"""Reads spread evenly over many items, so that no cache has what is asked for."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peer import NINJA, OURS, REST, Peer
from tests.load.bench.peers import Running, running
from tests.load.bench.results import Goal, Piece
from tests.load.request_template import RequestTemplate

TITLE = "Reading items that are not cached"
# Each is read again after 100 seconds: until then its cached response has expired.
ITEMS = 100_000


def read_any(peer: Peer) -> RequestTemplate:
    return peer.read_any(ITEMS)


def read_with_foreign_cookie(peer: Peer) -> RequestTemplate:
    return replace(read_any(peer), headers={"Cookie": "_ga=1"})


def read_by_token(peer: Peer) -> RequestTemplate:
    return replace(read_any(peer), headers={"Authorization": peer.authorization})


def measure(bench: Bench) -> Iterator[Piece]:
    starts = (
        partial(Running.start_ours, items=ITEMS),
        partial(Running.start_django, items=ITEMS),
    )
    with running(bench.testbed, *starts) as peers:
        compared = {name: peers[name] for name in (OURS, REST, NINJA)}
        goals = {REST: Goal("≥", 1)}
        for title, template in {
            "GET of one of 100,000 items, anonymous": read_any,
            "The same with a foreign cookie": read_with_foreign_cookie,
            "The same by token": read_by_token,
        }.items():
            yield from comparing.rates(bench, title, compared, template, goals)
