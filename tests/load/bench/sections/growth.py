"""What one answer costs when the catalogue grows."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

from tests.load.bench.catalogue import Catalogue
from tests.load.bench.measuring import Bench, in_turns, say
from tests.load.bench.results import Curves, Piece
from tests.load.request_template import RequestTemplate

TITLE = "Growth"
PAGE = 50
COUNT = "count of the items of the frequent tags, for a page"


def measure(bench: Bench) -> Iterator[Piece]:
    costs: dict[str, dict[float, list[float]]] = defaultdict(dict)
    for size in bench.scale.sizes:
        say(f"  {size:,} items")
        bench.catalogue.grow(size)
        with bench.catalogue.apart():
            for name, values in of_size(bench).items():
                costs[name][size] = values
    yield Curves("What one answer costs", "items", "ms", costs, is_log=True)


def of_size(bench: Bench) -> dict[str, list[float]]:
    catalogue = bench.catalogue
    turns: dict[str, Callable[[], float]] = {
        name: partial(cost, bench, template)
        for name, template in templates(catalogue).items()
    }
    turns[COUNT] = partial(catalogue.client.call, "count_tags")
    return in_turns(bench.scale.few_rounds, turns)


def cost(bench: Bench, template: RequestTemplate) -> float:
    return median(bench.generator.call("costs", template, bench.scale.asked))


def templates(catalogue: Catalogue) -> dict[str, RequestTemplate]:
    peer, port = catalogue.peer, catalogue.peer.port
    middle = catalogue.client.call("cursor_of_page", catalogue.size // PAGE // 2, PAGE)
    since = catalogue.client.call("cursor_in_changes")
    return {
        "an item": RequestTemplate(
            port, f"{peer.items}load-{{n}}", numbers=catalogue.size - 1
        ),
        "a list's first page": RequestTemplate(port, peer.items),
        "a page in its middle": RequestTemplate(port, f"{peer.items}?cursor={middle}"),
        "a search for two words": RequestTemplate(
            port, f"{peer.items}?search=turbine+valve"
        ),
        "a page of changes": RequestTemplate(
            port, f"/api/v1/changes?since={since}&page_size={PAGE}"
        ),
        "creating an item": peer.create(),
        "changing an item": peer.update("load-{n}", catalogue.size - 1),
    }
