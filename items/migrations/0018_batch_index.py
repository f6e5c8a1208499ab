"""Makes an index of the changes of a batch, while the site writes."""

from django.db import migrations, models

INDEX = models.Index(
    fields=["batch", "id"],
    condition=models.Q(batch__isnull=False),
    name="itemchange_by_batch",
)


def make_index(apps, schema_editor):
    drop_index(apps, schema_editor)  # an interrupted run leaves an invalid one
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    options = {"concurrently": True} if is_postgresql else {}
    schema_editor.add_index(apps.get_model("items", "ItemChange"), INDEX, **options)


def drop_index(apps, schema_editor):
    is_postgresql = schema_editor.connection.vendor == "postgresql"
    concurrently = "CONCURRENTLY" if is_postgresql else ""
    schema_editor.execute(f"DROP INDEX {concurrently} IF EXISTS {INDEX.name}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("items", "0017_change_batches")]

    operations = [
        migrations.RunPython(make_index, drop_index),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddIndex(model_name="itemchange", index=INDEX)
            ],
        ),
    ]
