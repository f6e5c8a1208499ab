"""Makes an index of the items that an earlier release wrote, while the site writes."""

import items.search
from django.db import migrations, models

INDEX = models.Index(
    fields=["id"],
    condition=models.Q(items.search.HasNoMark("search_text")),
    name="item_by_old_search",
)


def make_index(apps, schema_editor):
    drop_index(apps, schema_editor)  # an interrupted run leaves an invalid one
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    options = {"concurrently": True} if is_postgresql else {}
    schema_editor.add_index(apps.get_model("items", "Item"), INDEX, **options)


def drop_index(apps, schema_editor):
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    concurrently = "CONCURRENTLY" if is_postgresql else ""
    schema_editor.execute(f"DROP INDEX {concurrently} IF EXISTS {INDEX.name}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("items", "0008_client_request_id")]

    operations = [
        migrations.RunPython(make_index, drop_index),
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.AddIndex(model_name="item", index=INDEX)],
        ),
    ]
