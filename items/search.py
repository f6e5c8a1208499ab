"""Search: every word of the query, in the name or the description.

Words of three letters and more are found anywhere, also inside a word; shorter ones
at the beginning of a word. PostgreSQL answers from a trigram index over
`Item.search_text`, SQLite from a full-text table with trigrams, which triggers keep
in step (see the migrations).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson
from django.db import connections
from django.db.models import TextField
from django.db.models.expressions import RawSQL

if TYPE_CHECKING:
    from items.models import ItemQuerySet

TRIGRAM = 3

_SQLITE_MATCH = """
    SELECT item_id FROM items_search
    WHERE rowid IN (SELECT rowid FROM items_search_index WHERE text MATCH %s)
"""

RARE_ROWS = 50_000


def is_rare(rows: ItemQuerySet) -> bool:
    """Tell whether the rows are few enough to be found all, and then sorted.

    The other way to a page is to walk an index in the list's order and pick the
    matches: right for frequent words, and the planner's choice for too many others,
    as it takes words and order for independent. Words that are all at the far end
    (“python3” by name) would make it read the whole table.
    """
    if rows.query.is_empty() or connections[rows.db].vendor != "postgresql":
        return False
    plan = rows.order_by().values("pk").explain(format="json")
    return int(orjson.loads(plan)[0]["Plan"]["Plan Rows"]) < RARE_ROWS


def matching(rows: ItemQuerySet, words: Iterable[str]) -> ItemQuerySet:
    """Keep the rows that have all `words`, which are as `rules.search_words` says."""
    words = list(words)
    long = [word for word in words if len(word) >= TRIGRAM]
    short = [f" {word}" for word in words if len(word) < TRIGRAM]
    if long and connections[rows.db].vendor == "sqlite":
        query = " AND ".join(f'"{word}"' for word in long)
        found = RawSQL(_SQLITE_MATCH, [query], TextField())  # noqa: S611 - a parameter
        rows, long = rows.filter(pk__in=found), []
    for part in [*long, *short]:
        rows = rows.filter(search_text__contains=part)
    return rows
