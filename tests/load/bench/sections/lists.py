"""Latency of lists and searches in a large catalogue."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from statistics import median
from urllib.parse import urlencode

from tests.load.bench.measuring import Bench, in_turns
from tests.load.bench.results import (
    RATIO,
    Distribution,
    Goal,
    Piece,
    Row,
    Table,
    ratios,
)
from tests.load.request_template import RequestTemplate

TITLE = "Lists and searches"
PAGE = 50
SEARCHES = (
    "zinc", "turbine valve", "urbin", "serial 777", "q9x", "carbon fibre marble",
    "nothinglikethis", "se", "zz", "7777",
)  # fmt: skip
QUERIES = (
    {"tag": "common"},
    {"tag": "rare"},
    *({"search": text} for text in SEARCHES),
)


def measure(bench: Bench) -> Iterator[Piece]:
    catalogue = bench.catalogue
    catalogue.grow(max(bench.scale.sizes))
    number, middle = f"{catalogue.size:,} items", catalogue.size // PAGE // 2
    cursor = catalogue.client.call("cursor_of_page", middle, PAGE)
    with catalogue.separate_cores():
        names = "page 1", f"page {middle:,}"
        taken = milliseconds(bench, [{}, {"cursor": cursor}])
        rows = [Row(name, [*chain(*of)]) for name, of in zip(names, taken, strict=True)]
        yield Distribution(f"{number}, a list by name", "ms", rows)
        first, far = ([median(times) for times in of] for of in taken)
        row = Row(f"{names[1]} to {names[0]}", ratios(far, first), Goal("≤", 1.2))
        yield Table(f"{number}, a list by name", RATIO, [row])
        for ordering in ("name", "-updated_at"):
            queries = [query | {"ordering": ordering} for query in QUERIES]
            taken = milliseconds(bench, queries)
            rows = [
                Row(
                    " ".join(f"{key} “{text}”" for key, text in query.items()),
                    [*chain(*of)],
                )
                for query, of in zip(queries, taken, strict=True)
            ]
            yield Distribution(f"{number}, first pages by {ordering}", "ms", rows)


def milliseconds(
    bench: Bench, queries: list[dict[str, str]]
) -> list[list[list[float]]]:
    """Return, by query, the latencies of each round."""
    peer = bench.catalogue.peer
    turns = {}
    for query in queries:
        path = f"{peer.items}?{urlencode(query)}"
        template = RequestTemplate(peer.port, path)
        turns[path] = partial(
            bench.generator.call, "costs", template, bench.scale.requests
        )
    return list(in_turns(bench.scale.few_rounds, turns).values())
