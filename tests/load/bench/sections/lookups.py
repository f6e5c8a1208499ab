"""Codes looked up, of a code list that is read all day: one by one, and in batches."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import batched, product

from tests.load.bench import comparing
from tests.load.bench.measuring import Bench
from tests.load.bench.peers import FASTAPI, OURS, Peer, Running, running
from tests.load.bench.results import Goal, Piece
from tests.load.connections import HOST

TITLE = "Looking codes up"
CODES, BATCH, LARGEST = 5_000, 10, 1_000


def measure(bench: Bench) -> Iterator[Piece]:
    starts = (partial(Running.start_ours, items=CODES), Running.start_fastapi)
    with running(bench.testbed, *starts) as peers:
        fetch_all(peers[OURS])
        one = partial(Peer.look_up, numbers=CODES)
        title, goals = f"GET of one of {CODES:,} codes", {FASTAPI: Goal("≥", 1.5)}
        yield from comparing.rates(bench, title, peers, one, goals)
        many = partial(Peer.look_up_many, number=BATCH, numbers=CODES)
        title = f"POST of {BATCH} of {CODES:,} codes"
        rates = comparing.rates(bench, title, peers, many, {}, Goal("≥", 2_000))
        yield from rates
        yield comparing.latencies(bench, f"{title}, 100 a second", peers, many)


def fetch_all(peer: Peer) -> None:
    """Look all codes up, so that they are hot from the beginning.

    Responses are cached by host, and the generators name it in two ways.
    """
    with closing(http.client.HTTPConnection(HOST, peer.port)) as connection:
        for host, codes in product(
            (HOST, f"{HOST}:{peer.port}"),
            batched(map(str, range(1, CODES + 1)), LARGEST, strict=True),
        ):
            body = json.dumps({"codes": codes})
            headers = {"Content-Type": "application/json", "Host": host}
            connection.request("POST", peer.lookup, body, headers)
            answer = json.load(connection.getresponse())
            assert all(one["found"] for one in answer["results"])
