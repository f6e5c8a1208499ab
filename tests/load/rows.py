"""Generated items, reproducible by their numbers."""

import json
import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

WORDS = """
    amber anchor basalt beacon binder bracket cable carbon ceramic clamp copper dock
    engine filter flange gasket girder granite hinge insulator joint keel kiln
    lantern lever magnet marble motor needle nozzle oxide panel pigment piston
    pulley quartz radial rivet rotor sensor shaft sleeve socket spindle tension
    thermal timber turbine valve vessel washer zinc
""".split()  # noqa: SIM905 - easier to read
COLUMNS = ("id", "name", "description", "tags")
# One in so many items has this tag.
TAGS = {"common": 1, "some": 10, "rare": 5_003}
RARE_WORDS = 4_001
COLLECTIONS = [f"list-{n}" for n in range(20)]
COLOURS = ("amber", "black", "blue", "green", "grey", "red", "white")
# Of the first collection so many are below the first item, ten below each.
BELOW, CHILDREN = 10_000, 10
SCHEMA = {
    "properties": {
        "colour": {"type": "string", "enum": [*COLOURS], "x-filterable": True},
        "size": {"type": "integer", "x-filterable": True},
        "is_old": {"type": "boolean", "x-filterable": True},
        "weight": {"type": "number"},
        "made_on": {"type": "string", "format": "date"},
    }
}
ATTRIBUTES = tuple(f"attributes.{name}" for name in SCHEMA["properties"])
# What the items of collections have beside.
PLACED_COLUMNS = (*COLUMNS, "collection", "code", *ATTRIBUTES, "parent")


def rows(start: int, stop: int) -> Iterator[tuple[str, str, str, str]]:
    for n in range(start, stop):
        chance = random.Random(n)
        name = " ".join(chance.choices(WORDS, k=3))
        text = " ".join(chance.choices(WORDS, k=12))
        rare = " carbon fibre marble" if n % RARE_WORDS == 0 else ""
        tags = " ".join(tag for tag, every in TAGS.items() if n % every == 0)
        yield f"load-{n}", f"{name} {n}", f"Serial {n}: {text}{rare}", tags


def placed_rows(start: int, stop: int) -> Iterator[tuple[str, ...]]:
    """Yield the same rows in collections, with attributes, some of them in a tree."""
    for n, row in enumerate(rows(start, stop), start):
        number, place = divmod(n, len(COLLECTIONS))
        is_below = place == 0 and 0 < number <= BELOW
        parent = (number - 1) // CHILDREN * len(COLLECTIONS) if is_below else None
        cells = (
            one if isinstance(one, str) else json.dumps(one)
            for one in attributes(number).values()
        )
        yield (
            *row, COLLECTIONS[place], str(number), *cells,
            "" if parent is None else f"load-{parent}",
        )  # fmt: skip


def attributes(number: int) -> dict[str, Any]:
    """Return the five attributes of the item of this number in its collection."""
    return {
        "colour": COLOURS[number % len(COLOURS)],
        "size": number % 1_000,
        "is_old": number % 3 == 0,
        "weight": number / 8,
        "made_on": str(date(2000, 1, 1) + timedelta(days=number % 9_000)),
    }
