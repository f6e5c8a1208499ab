"""What one response costs when the catalogue grows."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from statistics import median

from tests.load.bench.catalogue import Catalogue
from tests.load.bench.measuring import Bench, in_turns, print_progress
from tests.load.bench.results import RATIO, Curves, Goal, Piece, Row, Table, ratios
from tests.load.request_template import RequestTemplate
from tests.load.rows import COLLECTIONS

TITLE = "Growth"
PAGE = 50
# Below this many, a database reads its tables from end to end.
GROWS_FROM = 10_000


def measure(bench: Bench) -> Iterator[Piece]:
    catalogue, costs = bench.catalogue, defaultdict(dict)

    def cost(template: RequestTemplate) -> float:
        return median(bench.generator.call("costs", template, bench.scale.requests))

    for size in bench.scale.sizes:
        print_progress(f"  {size:,} items")
        catalogue.grow(size)
        with catalogue.separate_cores():
            turns = {
                name: partial(cost, template)
                for name, template in templates(catalogue).items()
            }
            for name, values in in_turns(bench.scale.few_rounds, turns).items():
                costs[name][size] = values
    yield Curves("What one response costs", "items", "ms", costs)
    if GROWS_FROM in bench.scale.sizes:
        last = bench.scale.sizes[-1]
        rows = [
            Row(name, ratios(line[last], line[GROWS_FROM]), Goal("≤", 1.3))
            for name, line in costs.items()
        ]
        yield Table(f"{last:,} items to {GROWS_FROM:,}", RATIO, rows)


def templates(catalogue: Catalogue) -> dict[str, RequestTemplate]:
    peer, last = catalogue.peer, catalogue.size - 1
    get = partial(RequestTemplate, peer.port)
    middle = catalogue.client.call("cursor_of_page", catalogue.size // PAGE // 2, PAGE)
    since = catalogue.client.call("cursor_in_changes")
    lookup = f"/api/v1/collections/{COLLECTIONS[0]}/lookup?code={{any}}"
    return {
        "an item": get(f"{peer.items}load-{{any}}", numbers=last),
        "a code": get(lookup, numbers=last // len(COLLECTIONS)),
        "a list's first page": get(peer.items),
        "a page in its middle": get(f"{peer.items}?cursor={middle}"),
        "a search for two words": get(f"{peer.items}?search=turbine+valve"),
        "a page of changes": get(f"/api/v1/changes?since={since}&page_size={PAGE}"),
        "creating an item": peer.create(),
        "changing an item": peer.update("load-{any}", last),
    }
