"""Lets tags have any letters, and spaces: the tags there are conform to it as well.

They get versions too, with defaults for the release before.
"""

import django.utils.timezone
from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [("items", "0013_collections_filled")]

    operations = [
        migrations.RemoveConstraint(model_name="tag", name="tag_name_pattern"),
        migrations.AddConstraint(
            model_name="tag",
            constraint=models.CheckConstraint(
                condition=models.Q(("name__regex", '^[^ "]+( [^ "]+)*$')),
                name="tag_name_pattern",
            ),
        ),
        migrations.AddField(
            model_name="tag",
            name="version",
            field=models.PositiveIntegerField(db_default=1, default=1, editable=False),
        ),
        migrations.AddField(
            model_name="tag",
            name="updated_at",
            field=models.DateTimeField(
                db_default=Now(), default=django.utils.timezone.now, editable=False
            ),
        ),
    ]
