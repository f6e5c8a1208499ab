"""The index behind the search: trigrams on PostgreSQL, a full-text table on SQLite."""

from django.db import migrations

from items.search import create_tables, create_triggers

POSTGRESQL = """
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX item_by_trigram ON items_item USING gin (search_text gin_trgm_ops);
    -- The planner chooses between the trigram index and walking the order by how
    -- frequent a word is; the default of 100 samples sees frequent words only.
    ALTER TABLE items_item ALTER COLUMN search_text SET STATISTICS 1000;
"""
# Made by Django for LIKE on text keys; ids are only ever compared whole.
UNUSED_INDEX = """
    SELECT indexname FROM pg_indexes
    WHERE tablename = 'items_item' AND indexname LIKE 'items_item_id_%_like'
"""


def make_index(apps, schema_editor):
    connection = schema_editor.connection
    if connection.vendor == "sqlite":
        create_tables(connection)
        create_triggers(connection)
        return
    schema_editor.execute(POSTGRESQL)
    with connection.cursor() as cursor:
        cursor.execute(UNUSED_INDEX)
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP INDEX "{name}"')


class Migration(migrations.Migration):
    dependencies = [("items", "0001_initial")]

    operations = [migrations.RunPython(make_index, migrations.RunPython.noop)]
