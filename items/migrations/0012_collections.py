"""Adds collections and what their items hold, while the release before writes.

Every new column has a default of the database. Constraints and indexes follow in the
next migration, where nothing is locked for long.
"""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models
from items.search import create_triggers

GENERAL = "general"


def create_general(apps, schema_editor):
    apps.get_model("items", "Collection").objects.create(key=GENERAL, name="General")


def create_search_triggers(apps, schema_editor):
    if schema_editor.connection.vendor == "sqlite":
        # The columns have rebuilt the table, without them.
        create_triggers(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("items", "0011_import_run_of_page")]

    operations = [
        migrations.CreateModel(
            name="Collection",
            fields=[
                (
                    "key",
                    models.CharField(max_length=50, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(max_length=200)),
                ("description", models.TextField(blank=True)),
                ("schema", models.JSONField(blank=True, default=dict)),
                ("next_schema", models.JSONField(editable=False, null=True)),
                ("source", models.CharField(blank=True, max_length=500)),
                ("licence", models.CharField(blank=True, max_length=200)),
                ("version", models.PositiveIntegerField(default=1, editable=False)),
                (
                    "created_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("key__regex", "^[a-z0-9]+([_-][a-z0-9]+)*$")
                        ),
                        name="collection_key_pattern",
                    )
                ],
            },
        ),
        migrations.RunPython(create_general, migrations.RunPython.noop),
        migrations.AddField(
            model_name="item",
            name="collection",
            field=models.ForeignKey(
                db_default=GENERAL,
                db_index=False,
                default=GENERAL,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="items",
                to="items.collection",
            ),
        ),
        migrations.AddField(
            model_name="item",
            name="code",
            field=models.CharField(blank=True, db_default="", max_length=100),
        ),
        *(
            migrations.AddField(
                model_name="item",
                name=name,
                field=models.JSONField(
                    db_default=models.Value(empty(), models.JSONField()), default=empty
                ),
            )
            for name, empty in (
                ("labels", dict),
                ("aliases", list),
                ("attributes", dict),
                ("links", list),
            )
        ),
        migrations.AddField(
            model_name="item",
            name="status",
            field=models.CharField(
                db_default="active", default="active", max_length=10
            ),
        ),
        *(
            migrations.AddField(
                model_name="item",
                name=name,
                field=models.DateField(blank=True, null=True),
            )
            for name in ("valid_from", "valid_to")
        ),
        *(
            migrations.AddField(
                model_name="item",
                name=name,
                field=models.ForeignKey(
                    db_index=False,
                    null=True,
                    on_delete=django.db.models.deletion.DO_NOTHING,
                    related_name=related_name,
                    to="items.item",
                ),
            )
            for name, related_name in (
                ("parent", "children"),
                ("replaced_by", "replaces"),
            )
        ),
        migrations.CreateModel(
            name="ItemLink",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("relation", models.CharField(max_length=12)),
                (
                    "item",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="items.item",
                    ),
                ),
                (
                    "target",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="items.item",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        fields=["target", "relation"], name="itemlink_by_target"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("item", "relation", "target"), name="itemlink_once"
                    )
                ],
            },
        ),
        migrations.RunPython(create_search_triggers, migrations.RunPython.noop),
    ]
