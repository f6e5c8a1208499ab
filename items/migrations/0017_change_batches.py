"""Lets the change log say which changes were made together."""

import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('items', '0016_status_index'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ChangeBatch',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('import', 'Import'), ('bulk', 'Bulk'), ('job', 'Job'), ('undo', 'Undo')], max_length=6)),
                ('title', models.CharField(max_length=255)),
                ('actor_name', models.CharField(max_length=150)),
                ('started_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('finished_at', models.DateTimeField(null=True)),
                ('created', models.BigIntegerField(default=0)),
                ('updated', models.BigIntegerField(default=0)),
                ('deleted', models.BigIntegerField(default=0)),
            ],
            options={'default_permissions': ()},
        ),
        migrations.AddField(
            model_name='itemchange',
            name='batch',
            field=models.UUIDField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='changebatch',
            name='actor',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='changebatch',
            name='undoes',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='undone_by', to='items.changebatch'),
        ),
        migrations.AddField(
            model_name='importrun',
            name='batch',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='items.changebatch'),
        ),
        migrations.AddIndex(
            model_name='changebatch',
            index=models.Index(fields=['started_at', 'id'], name='changebatch_latest'),
        ),
    ]
