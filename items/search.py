"""Full-text search: every word of the query, in any searched field.

Words of three letters and more are found anywhere, also inside a word; shorter ones
at the beginning of a word. PostgreSQL answers from a trigram index over
`Item.search_text`. SQLite answers from an FTS5 table with trigrams over
`items_search`, which gives every item an integer key: the table of items has none
that survives a VACUUM. Triggers keep both tables in step.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import TYPE_CHECKING

import orjson
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import TextField
from django.db.models.expressions import RawSQL

if TYPE_CHECKING:
    from items.models import ItemQuerySet

TRIGRAM = 3
RARE_ROWS = 50_000

_SQLITE_MATCH = """
    SELECT item_id FROM items_search
    WHERE rowid IN (SELECT rowid FROM items_search_index WHERE text MATCH %s)
"""
_ascii_words = {n: " " for n in range(128) if not chr(n).isalnum()} | {
    n: chr(n).lower() for n in range(128) if chr(n).isalnum()
}


def search_words(text: str) -> str:
    """Return the words of `text` in lower case, without accents or punctuation."""
    if text.isascii():
        return " ".join(text.translate(_ascii_words).split())
    # Compatibility caseless matching (Unicode 16, section 3.13, D146).
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
    plain = unicodedata.normalize("NFKD", plain.casefold())
    kept = (
        letter if letter.isalnum() else " "
        for letter in plain
        if not unicodedata.combining(letter)
    )
    return " ".join("".join(kept).split())


def matching(rows: ItemQuerySet, words: Collection[str]) -> ItemQuerySet:
    """Filter `rows` by all `words`, which `search_words` has returned."""
    long = [word for word in words if len(word) >= TRIGRAM]
    short = [f" {word}" for word in words if len(word) < TRIGRAM]
    if long and connections[rows.db].vendor == "sqlite":
        query = " AND ".join(f'"{word}"' for word in long)
        found = RawSQL(_SQLITE_MATCH, [query], TextField())  # noqa: S611 - a parameter
        rows, long = rows.filter(pk__in=found), []
    for part in [*long, *short]:
        rows = rows.filter(search_text__contains=part)
    return rows


def is_rare(rows: ItemQuerySet) -> bool:
    """Return whether the rows are few enough to be found all, and then sorted.

    The other way to a page is to walk an index in the list's order and pick the
    matches: right for frequent words, and the planner's choice for too many others,
    as it takes words and order for independent. Words that are all at the far end
    (“python3” by name) would make it read the whole table.
    """
    if rows.query.is_empty() or connections[rows.db].vendor != "postgresql":
        return False
    plan = rows.order_by().values("pk").explain(format="json")
    return int(orjson.loads(plan)[0]["Plan"]["Plan Rows"]) < RARE_ROWS


# --- SQLite's tables and triggers, for the migrations

TABLES = (
    """CREATE TABLE items_search (
        rowid INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, text TEXT NOT NULL)""",
    """CREATE VIRTUAL TABLE items_search_index USING fts5(
        text, content='items_search', content_rowid='rowid', tokenize='trigram')""",
)

_ADD = "INSERT INTO items_search_index (rowid, text) VALUES (new.rowid, new.text);"
# How an external-content table is notified of a removal (SQLite, FTS5 section 4.4.3).
_REMOVE = (
    "INSERT INTO items_search_index (items_search_index, rowid, text) "
    "VALUES ('delete', old.rowid, old.text);"
)
TRIGGERS = {
    "items_search_added": f"AFTER INSERT ON items_search BEGIN {_ADD} END",
    "items_search_removed": f"AFTER DELETE ON items_search BEGIN {_REMOVE} END",
    "items_search_changed": (
        f"AFTER UPDATE ON items_search BEGIN {_REMOVE} {_ADD} END"
    ),
    "items_item_added": (
        "AFTER INSERT ON items_item BEGIN INSERT INTO items_search (item_id, text) "
        "VALUES (new.id, new.search_text); END"
    ),
    "items_item_removed": (
        "AFTER DELETE ON items_item BEGIN "
        "DELETE FROM items_search WHERE item_id = old.id; END"
    ),
    "items_item_changed": (
        "AFTER UPDATE OF search_text ON items_item "
        "WHEN new.search_text <> old.search_text BEGIN "
        "UPDATE items_search SET text = new.search_text WHERE item_id = new.id; END"
    ),
}


def create_tables(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)


def create_triggers(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for name, body in TRIGGERS.items():
            cursor.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {body}")
