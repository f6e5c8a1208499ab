"""Lets the change log say that the contents of an item were removed for good."""

from django.db import migrations, models

CONSTRAINT = models.CheckConstraint(
    condition=models.Q(
        models.Q(("action", "created"), ("before__isnull", True)),
        ("action", "updated"),
        models.Q(("action", "deleted"), ("after__isnull", True)),
        models.Q(
            ("action", "purged"), ("after__isnull", True), ("before__isnull", True)
        ),
        _connector="OR",
    ),
    name="itemchange_states",
)
# Every row conforms, as the constraint before was stricter: no scan under a lock.
REPLACE = """
    ALTER TABLE items_itemchange DROP CONSTRAINT itemchange_states,
    ADD CONSTRAINT itemchange_states CHECK (
        action = 'created' AND before IS NULL OR action = 'updated'
        OR action = 'deleted' AND after IS NULL
        OR action = 'purged' AND before IS NULL AND after IS NULL
    ) NOT VALID
"""
VALIDATE = "ALTER TABLE items_itemchange VALIDATE CONSTRAINT itemchange_states"


def replace(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(REPLACE)
        return
    change = apps.get_model("items", "ItemChange")
    others = [c for c in change._meta.constraints if c.name != CONSTRAINT.name]
    change._meta.constraints = [*others, CONSTRAINT]
    schema_editor.add_constraint(change, CONSTRAINT)


def validate(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(VALIDATE)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("items", "0009_old_search_index")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunPython(replace, migrations.RunPython.noop, atomic=True),
                migrations.RunPython(validate, migrations.RunPython.noop),
            ],
            state_operations=[
                migrations.RemoveConstraint("itemchange", CONSTRAINT.name),
                migrations.AddConstraint("itemchange", CONSTRAINT),
            ],
        ),
        migrations.AlterModelOptions(
            name="itemchange",
            options={
                "permissions": [
                    ("purge_item", "Can remove the contents of items for good")
                ]
            },
        ),
        migrations.AlterField(
            model_name="itemchange",
            name="action",
            field=models.CharField(
                choices=[
                    ("created", "Created"),
                    ("updated", "Updated"),
                    ("deleted", "Deleted"),
                    ("purged", "Purged"),
                ],
                max_length=7,
            ),
        ),
    ]
