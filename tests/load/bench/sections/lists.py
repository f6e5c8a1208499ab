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
ORDERINGS = ("name", "-updated_at")


def measure(bench: Bench) -> Iterator[Piece]:
    bench.catalogue.grow(max(bench.scale.sizes))
    number = f"{bench.catalogue.size:,} items"
    with bench.catalogue.apart():
        yield from pages(bench, number)
        for ordering in ORDERINGS:
            queries: list[dict[str, str]] = [{"tag": "common"}, {"tag": "rare"}]
            queries += [{"search": text} for text in SEARCHES]
            taken = costs(bench, [query | {"ordering": ordering} for query in queries])
            rows = [
                Row(named(query), values)
                for query, values in zip(queries, taken, strict=True)
            ]
            yield Distribution(f"{number}, first pages by {ordering}", "ms", rows)


def named(query: dict[str, str]) -> str:
    return " ".join(f"{name} “{text}”" for name, text in query.items())


def pages(bench: Bench, number: str) -> Iterator[Piece]:
    """Compare the first page with one in the middle."""
    last = bench.catalogue.size // PAGE // 2
    cursor = bench.catalogue.client.call("cursor_of_page", last, PAGE)
    names = "page 1", f"page {last:,}"
    taken = rounds(bench, [{}, {"cursor": cursor}])
    title = f"{number}, a list by name"
    rows = [Row(name, list(chain(*of))) for name, of in zip(names, taken, strict=True)]
    yield Distribution(title, "ms", rows)
    first, far = ([median(times) for times in of] for of in taken)
    row = Row(f"{names[1]} to {names[0]}", ratios(far, first), Goal("≤", 1.2))
    yield Table(title, RATIO, [row])


def costs(bench: Bench, queries: list[dict[str, str]]) -> list[list[float]]:
    return [list(chain(*of)) for of in rounds(bench, queries)]


def rounds(bench: Bench, queries: list[dict[str, str]]) -> list[list[list[float]]]:
    """Return, by query, the milliseconds of each round."""
    peer = bench.catalogue.peer
    turns = {}
    for query in queries:
        template = RequestTemplate(peer.port, f"{peer.items}?{urlencode(query)}")
        ask = partial(bench.generator.call, "costs", template, bench.scale.asked)
        turns[template.path] = ask
    return list(in_turns(bench.scale.few_rounds, turns).values())
