import items.models
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("items", "0005_import_format")]

    operations = [
        migrations.AddField(
            model_name="item",
            name="sort_key",
            field=items.models.CodePointField(
                db_default="", editable=False, max_length=250
            ),
        ),
    ]
