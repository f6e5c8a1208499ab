"""Latency of lists and searches in a large catalogue."""

from collections.abc import Iterator, Sequence
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
from tests.load.rows import COLLECTIONS

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

PLACE = {"collection": "list-3"}
# Lists of a page, by relevance where there is a search.
FOUND = (
    {"search": "carbon fibre marble"},
    {"search": "turbine valve"},
    {"search": "zinc"},
    {"search": "zinc", "highlight": "true"},
    {"search": "turbime valv"},
    {"search": "load-4711"},
    {"search": "zinc"} | PLACE,
    PLACE,
    {"attributes.colour": "red"} | PLACE,
    {"attributes.size__gte": "998"} | PLACE,
    {"attributes.is_old": "true", "search": "valve"} | PLACE,
    {"ancestor": "load-0"},
    {"ancestor": "load-0", "search": "zinc"},
    {"valid_on": "2026-01-01"},
    {"status": "retired"},
)
COUNTED = (
    {},
    PLACE,
    {"attributes.colour": "red"} | PLACE,
    {"search": "turbine valve"},
    {"search": "zinc"},
    {"search": "carbon fibre marble"},
    {"ancestor": "load-0"},
    {"tag": "rare"},
)
PAGE_GOAL, FACETS_GOAL = Goal("<", 50, "p99"), Goal("<", 150, "p99")


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
            rows = taken_by(bench, queries)
            yield Distribution(f"{number}, first pages by {ordering}", "ms", rows)
        number += f" of {len(COLLECTIONS)} collections"
        rows = taken_by(bench, FOUND, PAGE_GOAL)
        yield Distribution(f"{number}, first pages", "ms", rows)
        rows = taken_by(bench, COUNTED, FACETS_GOAL, "-/facets")
        yield Distribution(f"{number}, facets", "ms", rows)


def taken_by(
    bench: Bench,
    queries: Sequence[dict[str, str]],
    goal: Goal | None = None,
    below: str = "",
) -> list[Row]:
    return [
        Row(
            " ".join(f"{key} “{text}”" for key, text in query.items()) or "all",
            [*chain(*of)],
            goal,
        )
        for query, of in zip(queries, milliseconds(bench, queries, below), strict=True)
    ]


def milliseconds(
    bench: Bench, queries: Sequence[dict[str, str]], below: str = ""
) -> list[list[list[float]]]:
    """Return, by query, the latencies of each round."""
    peer = bench.catalogue.peer
    turns = {}
    for query in queries:
        path = f"{peer.items}{below}?{urlencode(query)}"
        template = RequestTemplate(peer.port, path)
        turns[path] = partial(
            bench.generator.call, "costs", template, bench.scale.requests
        )
    return list(in_turns(bench.scale.few_rounds, turns).values())
