"""Which items of a collection do not conform to a schema."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import batched
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Window

from items.collections.attributes import AttributeValue
from items.collections.schema import AttributeSchema, Schema, compile_schema
from items.integrity import ItemErrors
from items.models import Item

CHUNK = 1_000

# An item, and what is wrong with it.
type Broken = tuple[str, ItemErrors]
# Called with the number of items of each chunk, when it was looked at.
type OnChunk = Callable[[int], None]


def ignore(*anything: object) -> None:
    """Do nothing."""


def broken_items(key: str, schema: Schema, on_chunk: OnChunk) -> Iterator[Broken]:
    """Yield the items of a collection that break `schema`, some of them twice.

    All are of one snapshot of the database: what is renamed meanwhile moves past none.
    """
    compiled = compile_schema(schema)
    is_postgresql = connection.vendor == "postgresql"
    rows = Item.objects.filter(collection=key).values_list("pk", "code", "attributes")
    # A cursor of PostgreSQL lives in a transaction; one of SQLite would keep writers.
    with transaction.atomic() if is_postgresql else nullcontext():
        if is_postgresql:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = 0")
        for chunk in batched(rows.order_by().iterator(CHUNK), CHUNK):
            found: dict[str, dict[str, list[str]]] = {}
            for pk, _, attributes in chunk:
                if errors := compiled.errors(attributes):
                    found[pk] = errors
            _add_dangling(found, compiled, chunk)
            yield from ((pk, {"attributes": found[pk]}) for pk in found)
            on_chunk(len(chunk))
        for name in compiled.unique:
            yield from _repeated(key, name)


def _add_dangling(
    found: dict[str, dict[str, list[str]]],
    schema: AttributeSchema,
    chunk: Iterable[tuple[str, str, dict[str, Any]]],
) -> None:
    """Find attributes with the code of no item of the collection they refer to."""
    for name, key in schema.references.items():
        referring = defaultdict(list)
        for pk, _, attributes in chunk:
            if isinstance(code := attributes.get(name), str):
                referring[code].append(pk)
        for code in referring.keys() - Item.objects.known_codes(key, referring):
            message = f"There is no code “{code}” in the collection “{key}”."
            for pk in referring[code]:
                found.setdefault(pk, {}).setdefault(name, []).append(message)


def _repeated(key: str, name: str) -> Iterator[Broken]:
    """Yield the items of which another one has the same value of an attribute."""
    rows = Item.objects.filter(collection=key, attributes__has_key=name)
    counted = rows.annotate(
        number=Window(Count("*"), partition_by=[AttributeValue(name, "attributes")])
    )
    message = ["Another item has this value, too."]
    for pk in counted.filter(number__gt=1).values_list("pk", flat=True).iterator(CHUNK):
        yield pk, {"attributes": {name: message}}
