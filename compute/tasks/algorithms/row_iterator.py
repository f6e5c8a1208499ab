"""The catalogue as a stream of rows, for work that looks at all of it."""

from collections.abc import Iterator
from typing import Any

from items.models import ItemQuerySet

CHUNK_ROWS = 5_000


def rows(items: ItemQuerySet, *fields: str) -> Iterator[tuple[Any, ...]]:
    """Yield the id and `fields` of each of `items`, by id, in constant memory.

    Read in chunks by key: no transaction stays open, and nothing is read twice.
    """
    values, last = items.order_by("pk").values_list("pk", *fields), None
    while True:
        page = values if last is None else values.filter(pk__gt=last)
        chunk = list(page[:CHUNK_ROWS])
        yield from chunk
        if len(chunk) < CHUNK_ROWS:
            return
        last = chunk[-1][0]
