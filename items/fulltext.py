"""SQLite's full-text table for the search, and the triggers that keep it in step.

The index is an FTS5 table with trigrams over `items_search`, which gives every item
a whole number for it: the table of items has none that lasts through a VACUUM.
"""

from django.db.backends.base.base import BaseDatabaseWrapper

TABLES = (
    """CREATE TABLE items_search (
        rowid INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, text TEXT NOT NULL)""",
    """CREATE VIRTUAL TABLE items_search_index USING fts5(
        text, content='items_search', content_rowid='rowid', tokenize='trigram')""",
)

_ADD = "INSERT INTO items_search_index (rowid, text) VALUES (new.rowid, new.text);"
# How an external-content table is told of a removal (SQLite, FTS5 section 4.4.3).
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


def make_tables(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)


def make_triggers(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for name, body in TRIGGERS.items():
            cursor.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {body}")
