
import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
import django.utils.timezone
import items.changes.transactions
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Item',
            fields=[
                ('id', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=200)),
                ('description', models.TextField(blank=True)),
                ('version', models.PositiveIntegerField(default=1)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('search_text', models.TextField(editable=False)),
            ],
        ),
        migrations.CreateModel(
            name='Tag',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=50, unique=True)),
                ('description', models.CharField(blank=True, max_length=200)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('name__regex', '^[a-z0-9][a-z0-9._:+-]*$')), name='tag_name_pattern')],
            },
        ),
        migrations.CreateModel(
            name='ItemTag',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('item', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to='items.item')),
                ('tag', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='items.tag')),
            ],
        ),
        migrations.AddField(
            model_name='item',
            name='tags',
            field=models.ManyToManyField(related_name='items', through='items.ItemTag', to='items.tag'),
        ),
        migrations.CreateModel(
            name='ImportRun',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('source', models.CharField(max_length=255)),
                ('path', models.CharField(max_length=1000)),
                ('fingerprint', models.CharField(max_length=64)),
                ('size', models.BigIntegerField(default=0)),
                ('state', models.CharField(choices=[('previewed', 'Previewed'), ('running', 'Running'), ('done', 'Done')], default='running', max_length=9)),
                ('offset', models.BigIntegerField(default=0)),
                ('line', models.BigIntegerField(default=0)),
                ('created', models.BigIntegerField(default=0)),
                ('updated', models.BigIntegerField(default=0)),
                ('unchanged', models.BigIntegerField(default=0)),
                ('rejected', models.BigIntegerField(default=0)),
                ('rejects_size', models.BigIntegerField(default=0)),
                ('preview', models.JSONField(null=True)),
                ('started_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('finished_at', models.DateTimeField(null=True)),
                ('actor', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'indexes': [models.Index(fields=['fingerprint', 'started_at'], name='importrun_of_file')],
            },
        ),
        migrations.CreateModel(
            name='ItemChange',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('transaction', models.BigIntegerField(db_default=items.changes.transactions.TransactionId(), editable=False)),
                ('item_id', models.CharField(max_length=100)),
                ('version', models.PositiveIntegerField()),
                ('action', models.CharField(choices=[('created', 'Created'), ('updated', 'Updated'), ('deleted', 'Deleted')], max_length=7)),
                ('before', models.JSONField(null=True)),
                ('after', models.JSONField(null=True)),
                ('at', models.DateTimeField(default=django.utils.timezone.now)),
                ('actor_name', models.CharField(max_length=150)),
                ('request_id', models.CharField(blank=True, max_length=64)),
                ('actor', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'indexes': [models.Index(fields=['transaction', 'id'], name='itemchange_by_commit'), models.Index(condition=models.Q(('action', 'deleted')), fields=['id'], name='itemchange_deletion')],
                'constraints': [models.UniqueConstraint(fields=('item_id', 'version'), name='itemchange_once_per_version'), models.CheckConstraint(condition=models.Q(models.Q(('action', 'created'), ('before__isnull', True)), ('action', 'updated'), models.Q(('action', 'deleted'), ('after__isnull', True)), _connector='OR'), name='itemchange_states')],
            },
        ),
        migrations.AddIndex(
            model_name='itemtag',
            index=models.Index(fields=['tag', 'item'], name='itemtag_by_tag'),
        ),
        migrations.AddConstraint(
            model_name='itemtag',
            constraint=models.UniqueConstraint(fields=('item', 'tag'), name='itemtag_once'),
        ),
        migrations.AddIndex(
            model_name='item',
            index=models.Index(fields=['name', 'id'], name='item_by_name'),
        ),
        migrations.AddIndex(
            model_name='item',
            index=models.Index(fields=['created_at', 'id'], name='item_by_creation'),
        ),
        migrations.AddIndex(
            model_name='item',
            index=models.Index(fields=['updated_at', 'id'], name='item_by_update'),
        ),
        migrations.AddConstraint(
            model_name='item',
            constraint=models.CheckConstraint(condition=models.Q(('id__regex', '^[A-Za-z0-9][A-Za-z0-9._:+~@-]*$'), models.Q(('id__in', ('bulk', 'changes', 'export', 'import', 'new')), _negated=True)), name='item_id_pattern'),
        ),
        migrations.AddConstraint(
            model_name='item',
            constraint=models.CheckConstraint(condition=models.Q(('name', ''), _negated=True), name='item_has_name'),
        ),
        migrations.AddConstraint(
            model_name='item',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.LessThanOrEqual(django.db.models.functions.text.Length('name'), 200), name='item_name_length'),
        ),
        migrations.AddConstraint(
            model_name='item',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.LessThanOrEqual(django.db.models.functions.text.Length('description'), 10000), name='item_description_length'),
        ),
        migrations.AddConstraint(
            model_name='item',
            constraint=models.CheckConstraint(condition=models.Q(('version__gte', 1)), name='item_version'),
        ),
    ]
