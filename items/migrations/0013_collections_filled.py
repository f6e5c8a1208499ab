"""Fills codes and search columns, and makes indexes and constraints, as the site writes.

Each step is its own transaction, so that a run that was interrupted can be repeated.
"""

import items.search
from django.db import migrations, models
from django.db.models.functions import Lower
from items import search_columns
from items.search import create_triggers

OLD_SEARCH = models.Index(
    fields=["id"],
    condition=models.Q(items.search.HasNoMark("search_text")),
    name="item_by_old_search",
)
CODE_ONCE = models.UniqueConstraint(
    fields=["collection", "code"],
    condition=~models.Q(collection="general"),
    name="item_code_once",
)
INDEXES = [
    models.Index(fields=["collection", "sort_key", "id"], name="item_by_collection"),
    models.Index(Lower("code"), name="item_by_own_code"),
    models.Index(
        fields=["parent", "sort_key", "id"],
        condition=models.Q(parent__isnull=False),
        name="item_by_parent",
    ),
    models.Index(
        fields=["replaced_by"],
        condition=models.Q(replaced_by__isnull=False),
        name="item_by_successor",
    ),
]
ID_PATTERN = models.CheckConstraint(
    condition=models.Q(id__regex=r"""^[^ "#%/<>?\[\\\]^`{|}]+$"""),
    name="item_id_pattern",
)
CHECKS = [
    models.CheckConstraint(
        condition=~models.Q(collection="general")
        | models.Q(code__in=["", models.F("id")]),
        name="item_code_in_general",
    ),
    models.CheckConstraint(
        condition=models.Q(status__in=("draft", "active", "deprecated", "retired")),
        name="item_status",
    ),
    models.CheckConstraint(
        condition=models.Q(valid_from__isnull=True)
        | models.Q(valid_to__isnull=True)
        | models.Q(valid_from__lte=models.F("valid_to")),
        name="item_validity",
    ),
]


def is_postgresql(schema_editor):
    return schema_editor.connection.vendor == "postgresql"


def make_index(index, apps, schema_editor):
    """Make an index anew: an interrupted run leaves an invalid one."""
    options = {"concurrently": True} if is_postgresql(schema_editor) else {}
    concurrently = "CONCURRENTLY" if options else ""
    schema_editor.execute(f"DROP INDEX {concurrently} IF EXISTS {index.name}")
    schema_editor.add_index(apps.get_model("items", "Item"), index, **options)


def fill(apps, schema_editor):
    make_index(OLD_SEARCH, apps, schema_editor)  # the mark of an old one is another
    search_columns.renew(apps.get_model("items", "Item"))


def make_indexes(apps, schema_editor):
    for index in INDEXES:
        make_index(index, apps, schema_editor)
    concurrently = "CONCURRENTLY" if is_postgresql(schema_editor) else ""
    schema_editor.execute(f"DROP INDEX {concurrently} IF EXISTS {CODE_ONCE.name}")
    schema_editor.execute(
        f"CREATE UNIQUE INDEX {concurrently} {CODE_ONCE.name} "
        "ON items_item (collection_id, code) WHERE NOT (collection_id = 'general')"
    )


def add_checks(apps, schema_editor):
    item = apps.get_model("items", "Item")
    new = [ID_PATTERN, *CHECKS]
    if is_postgresql(schema_editor):
        changes = [f"DROP CONSTRAINT IF EXISTS {check.name}" for check in new]
        changes += [
            f"ADD {check.constraint_sql(item, schema_editor)} NOT VALID"
            for check in new
        ]
        # Every row conforms, but for what nobody has written yet: no scan under a lock.
        # There is a % in the pattern.
        schema_editor.execute(f"ALTER TABLE items_item {', '.join(changes)}", None)
        return
    names = {check.name for check in new}
    others = [check for check in item._meta.constraints if check.name not in names]
    item._meta.constraints = [*others, *new]
    schema_editor.add_constraint(item, ID_PATTERN)
    # The table was made anew, without them.
    create_triggers(schema_editor.connection)


def validate(apps, schema_editor):
    if is_postgresql(schema_editor):
        for check in [ID_PATTERN, *CHECKS]:
            schema_editor.execute(
                f"ALTER TABLE items_item VALIDATE CONSTRAINT {check.name}"
            )


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("items", "0012_collections")]

    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunPython(
                    add_checks, migrations.RunPython.noop, atomic=True
                ),
                migrations.RunPython(validate, migrations.RunPython.noop),
                migrations.RunPython(make_indexes, migrations.RunPython.noop),
            ],
            state_operations=[
                migrations.RemoveConstraint("item", ID_PATTERN.name),
                *(migrations.AddConstraint("item", c) for c in [ID_PATTERN, *CHECKS]),
                migrations.AddConstraint("item", CODE_ONCE),
                *(migrations.AddIndex("item", index) for index in INDEXES),
            ],
        ),
    ]
