"""How many of the items of a list have which value: by collection, tag, status, …

Those items are counted that the parameters of a list select: all up to COUNTED_MAX; of
many more, FEW of them, the first ones by name. One statement finds the items and counts
for every facet.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models.fields.json import KeyTextTransform

from items.filters import ATTRIBUTE, BOOLEANS, filterable
from items.list_query import COUNTED_MAX, MAX_POPULAR_TAGS, ListQuery
from items.models import ItemQuerySet
from items.search import is_rare

VALUES_MAX = 60
FEW = 1_000
# Of attributes with these types: others have too many values to choose from.
DECODERS: Mapping[str, Callable[[str], Any]] = {
    "boolean": BOOLEANS.__getitem__,
    "integer": lambda text: int(float(text)),  # 5.0 is a whole number in JSON
    "string": str,
}
# With one item more than are counted.
_FOUND = """WITH found (id, collection, status{columns}) AS MATERIALIZED ({rows}),
matches AS (SELECT * FROM found LIMIT {at_most})
SELECT -1, NULL, COUNT(*) FROM found"""
# Ties are cut off alike on both databases.
_COUNTS = """SELECT * FROM (
    SELECT {number}, value, number FROM (
        SELECT CAST({column} AS TEXT) AS value, COUNT(*) AS number
        FROM {rows} WHERE {column} IS NOT NULL GROUP BY 1
    ) AS counted ORDER BY number DESC, value COLLATE {collation} LIMIT {limit}
) AS facet_{number}"""
_TAGGED = """matches JOIN {tagged} ON tagged.item_id = matches.id
JOIN items_tag ON items_tag.id = tagged.tag_id"""
# PostgreSQL would read the tags of all items; OFFSET has it look up those of each.
_ITEM_TAGS = {
    "sqlite": "items_itemtag AS tagged",
    "postgresql": """LATERAL (
        SELECT item_id, tag_id FROM items_itemtag WHERE item_id = matches.id OFFSET 0
    ) AS tagged""",
}


class Counted(NamedTuple):
    value: Any
    number: int


class Facet(NamedTuple):
    """The most frequent values, and whether there are others."""

    values: list[Counted]
    has_more: bool


class Facets(NamedTuple):
    counted: int
    # Whether these are all items of the list.
    is_complete: bool
    # By the parameter of lists that filters by it.
    facets: dict[str, Facet]


class _Source(NamedTuple):
    """Where the statement finds the values of a facet."""

    parameter: str
    column: str
    rows: str = "matches"
    decode: Callable[[str], Any] = str
    values_max: int = VALUES_MAX


def count(query: ListQuery, at_most: int = COUNTED_MAX) -> Facets:
    """Count by value the items that the query selects, `at_most` of them."""
    items, declared = query.items(), filterable(query.filters["collection"]) or {}
    if _is_few(items, 2 * at_most):
        return _count(items.order_by(), declared, at_most)
    return _count(items.order_by("sort_key", "pk"), declared, min(at_most, FEW))


def count_few(query: ListQuery, declared: Mapping[str, Any]) -> Facets | None:
    """Count the items if they are so few that it takes no time; else None.

    `declared` are the attributes that they can be filtered by.
    """
    items = query.items().order_by()
    if not _is_few(items, 2 * FEW):
        return None
    facets = _count(items, declared, FEW)
    return facets if facets.is_complete else None


def _is_few(items: ItemQuerySet, number: int) -> bool:
    """Return whether the planner expects fewer items; SQLite's expects nothing."""
    return connections[items.db].vendor == "sqlite" or is_rare(items, number)


def _count(items: ItemQuerySet, declared: Mapping[str, Any], at_most: int) -> Facets:
    attributes = {
        name: DECODERS[one["type"]]
        for name, one in declared.items()
        if one["type"] in DECODERS
    }
    tagged = _TAGGED.format(tagged=_ITEM_TAGS[connections[items.db].vendor])
    sources = [
        _Source("collection", "collection"),
        _Source("tag", "items_tag.name", tagged, values_max=MAX_POPULAR_TAGS),
        _Source("status", "status"),
        *(
            _Source(f"{ATTRIBUTE}{name}", f"a{n}", decode=decode)
            for n, (name, decode) in enumerate(attributes.items())
        ),
    ]
    found = 0
    counts: list[list[Counted]] = [[] for _ in sources]
    for number, value, n in _read(items, [*attributes], sources, at_most):
        if number < 0:
            found = n
        else:
            counts[number].append(Counted(sources[number].decode(value), n))
    facets = {
        source.parameter: Facet(
            values[: source.values_max], len(values) > source.values_max
        )
        for source, values in zip(sources, counts, strict=True)
    }
    return Facets(min(found, at_most), found <= at_most, facets)


def _read(
    items: ItemQuerySet,
    names: Sequence[str],
    sources: Sequence[_Source],
    at_most: int,
) -> list[tuple[int, str, int]]:
    """Return number of the facet, value and count; the number -1 has all items."""
    values = [KeyTextTransform(name, "attributes") for name in names]
    rows = items.values_list("pk", "collection_id", "status", *values)
    connection = connections[items.db]
    try:
        compiler = rows[: at_most + 1].query.get_compiler(connection=connection)
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        return []
    columns = "".join(f", a{n}" for n in range(len(names)))
    collation = "BINARY" if connection.vendor == "sqlite" else '"C"'
    parts = [_FOUND.format(columns=columns, rows=sql, at_most=at_most)]
    parts += [
        _COUNTS.format(
            number=number,
            column=source.column,
            rows=source.rows,
            collation=collation,
            limit=source.values_max + 1,
        )
        for number, source in enumerate(sources)
    ]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), params)
        return list(cursor.fetchall())
