"""Reads spread evenly over many items, so that no cache has what is requested."""

from collections.abc import Iterator
from functools import partial

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import NINJA, OURS, REST, Peer, Running, running
from tests.load.bench.results import Goal, Piece

TITLE = "Reading items that are not cached"
# Each is read again after 100 seconds: until then its cached response has expired.
ITEMS = 100_000
# Each is read again within the ten seconds for which its cached response is fresh.
IN_REDIS = 2_000


def measure(bench: Bench) -> Iterator[Piece]:
    yield from of_database(bench)
    yield from of_redis(bench)


def of_database(bench: Bench) -> Iterator[Piece]:
    starts = (
        partial(Running.start_ours, items=ITEMS),
        partial(Running.start_django, items=ITEMS),
    )
    templates = {
        f"GET of one of {ITEMS:,} items, anonymous": lambda peer: peer.read(ITEMS),
        "The same with a foreign cookie": lambda peer: peer.read(ITEMS, Cookie="_ga=1"),
        "The same by token": partial(Peer.read_authenticated, numbers=ITEMS),
    }
    with running(bench.testbed, *starts) as peers:
        compared = {name: peers[name] for name in (OURS, REST, NINJA)}
        for title, template in templates.items():
            goals = {REST: Goal("≥", 1.5)}
            yield from comparing.rates(bench, title, compared, template, goals)
        title = f"A search of {ITEMS:,} items that nobody has made before"
        compared = {name: peers[name] for name in (OURS, REST)}
        goals = {REST: Goal("≥", 1)}
        yield from comparing.rates(bench, title, compared, Peer.search, goals)


def of_redis(bench: Bench) -> Iterator[Piece]:
    """By a process that has nothing in its own memory, as if just started."""
    starts = (
        partial(Running.start_ours, items=IN_REDIS, READ_CACHE_BYTES="0"),
        partial(Running.start_django, items=IN_REDIS),
    )
    title = f"GET of one of {IN_REDIS:,} items that Redis has"
    with running(bench.testbed, *starts) as peers:
        compared = {name: peers[name] for name in (OURS, REST)}
        goals = {REST: Goal("≥", 4)}
        yield from comparing.rates(
            bench, title, compared, lambda peer: peer.read(IN_REDIS), goals
        )
