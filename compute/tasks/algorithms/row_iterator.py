"""Row iterator over the catalogue, in constant memory."""

from collections.abc import Iterator
from typing import Any

from items.models import ItemQuerySet

CHUNK_ROWS = 1_000


def iterate_rows(items: ItemQuerySet, *fields: str) -> Iterator[tuple[Any, ...]]:
    """Yield the id and `fields` of each of `items`, ordered by id.

    Rows are read in chunks by key: no transaction stays open, and no row is read twice.
    """
    values, last = items.order_by("pk").values_list("pk", *fields), None
    while True:
        page = values if last is None else values.filter(pk__gt=last)
        chunk = list(page[:CHUNK_ROWS])
        yield from chunk
        if len(chunk) < CHUNK_ROWS:
            return
        last = chunk[-1][0]
