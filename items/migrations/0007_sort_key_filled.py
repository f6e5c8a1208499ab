"""Makes indexes of the search columns while the site goes on writing.

Each step is its own transaction, so that a run that was interrupted can be repeated.
"""

import items.search
from django.db import migrations, models
from items.search import create_triggers

INDEXES = {
    "item_by_sort_key": "(sort_key, id)",
    "item_by_code": "(LOWER(SUBSTR(id, STRPOS(id, '.') + 1)))",
}


def create_search_triggers(apps, schema_editor):
    # 0013 fills the columns, as this release makes them.
    if schema_editor.connection.vendor == "sqlite":
        # The column has rebuilt the table, without them.
        create_triggers(schema_editor.connection)


def make_indexes(apps, schema_editor):
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    with schema_editor.connection.cursor() as cursor:
        for name, columns in INDEXES.items():
            if is_postgresql:
                # An interrupted run leaves an invalid one.
                cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
                cursor.execute(
                    f"CREATE INDEX CONCURRENTLY {name} ON items_item {columns}"
                )
            else:
                columns = columns.replace("STRPOS", "INSTR")
                cursor.execute(f"DROP INDEX IF EXISTS {name}")
                cursor.execute(f"CREATE INDEX {name} ON items_item {columns}")
        concurrently = "CONCURRENTLY" if is_postgresql else ""
        cursor.execute(f"DROP INDEX {concurrently} IF EXISTS item_by_name")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("items", "0006_sort_key")]

    operations = [
        migrations.RunPython(create_search_triggers, migrations.RunPython.noop),
        migrations.RunPython(make_indexes, migrations.RunPython.noop),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddIndex(
                    model_name="item",
                    index=models.Index(
                        fields=["sort_key", "id"], name="item_by_sort_key"
                    ),
                ),
                migrations.AddIndex(
                    model_name="item",
                    index=models.Index(items.search.Code("id"), name="item_by_code"),
                ),
                migrations.RemoveIndex(model_name="item", name="item_by_name"),
            ],
        ),
    ]
