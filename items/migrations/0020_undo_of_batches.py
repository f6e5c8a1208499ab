"""Lets a batch of changes be undone, also in portions."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('items', '0019_import_files'),
    ]

    operations = [
        migrations.AddField(
            model_name='changebatch',
            name='position',
            field=models.BigIntegerField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='changebatch',
            name='undone',
            field=models.BooleanField(db_default=False, default=False, editable=False),
        ),
    ]
