"""Search: every word of the query, in the name or the description.

Words of three letters and more are found anywhere, also inside a word; shorter ones
at the beginning of a word. PostgreSQL answers from a trigram index over
`Item.search_text`, SQLite from a full-text table with trigrams, which triggers keep
in step (see the migrations).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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


def matching(rows: ItemQuerySet, words: Sequence[str]) -> ItemQuerySet:
    """Keep the rows that have all `words`, which are as `rules.search_words` says."""
    long = [word for word in words if len(word) >= TRIGRAM]
    short = [f" {word}" for word in words if len(word) < TRIGRAM]
    if long and connections[rows.db].vendor == "sqlite":
        query = " AND ".join(f'"{word}"' for word in long)
        found = RawSQL(_SQLITE_MATCH, [query], TextField())  # noqa: S611 - a parameter
        rows, long = rows.filter(pk__in=found), []
    for part in [*long, *short]:
        rows = rows.filter(search_text__contains=part)
    return rows
