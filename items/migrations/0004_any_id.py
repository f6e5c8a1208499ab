"""Lets an item have any id: the routes share no place with ids any more."""

from django.db import migrations, models
from items.search import create_triggers

PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:+~@-]*$"
CONSTRAINT = models.CheckConstraint(
    condition=models.Q(("id__regex", PATTERN)), name="item_id_pattern"
)
# Every row conforms, as the constraint before was stricter: no scan under a lock.
REPLACE = f"""
    ALTER TABLE items_item DROP CONSTRAINT item_id_pattern,
    ADD CONSTRAINT item_id_pattern CHECK (id ~ '{PATTERN}') NOT VALID
"""
VALIDATE = "ALTER TABLE items_item VALIDATE CONSTRAINT item_id_pattern"


def replace(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(REPLACE)
        return
    item = apps.get_model("items", "Item")
    others = [c for c in item._meta.constraints if c.name != CONSTRAINT.name]
    item._meta.constraints = [*others, CONSTRAINT]
    schema_editor.add_constraint(item, CONSTRAINT)
    # The table was made anew, without them.
    create_triggers(schema_editor.connection)


def validate(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(VALIDATE)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("items", "0003_events")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunPython(replace, migrations.RunPython.noop, atomic=True),
                migrations.RunPython(validate, migrations.RunPython.noop),
            ],
            state_operations=[
                migrations.RemoveConstraint("item", CONSTRAINT.name),
                migrations.AddConstraint("item", CONSTRAINT),
            ],
        ),
    ]
