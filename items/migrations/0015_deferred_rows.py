"""Adds the rows of an import that refer to what comes later in its file."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("items", "0014_tag_names")]

    operations = [
        migrations.CreateModel(
            name="DeferredRow",
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
                ("attempt", models.PositiveSmallIntegerField(default=1)),
                ("line", models.BigIntegerField()),
                ("item_id", models.CharField(max_length=100)),
                ("place", models.CharField(max_length=151)),
                ("data", models.TextField()),
                ("source", models.TextField()),
                ("is_partial", models.BooleanField(default=False)),
                (
                    "run",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="items.importrun",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [
                    models.Index(
                        fields=["run", "attempt", "line"], name="deferredrow_by_pass"
                    ),
                    models.Index(fields=["run", "place"], name="deferredrow_by_place"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("run", "item_id"), name="deferredrow_once_per_item"
                    )
                ],
            },
        ),
    ]
