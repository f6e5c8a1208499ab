from django.db import migrations, models

ADMINISTRATORS = "Administrators"
# What its members, as staff, could do before these permissions existed.
GRANTED = [
    ("resilient_site", "operation", "view_status_details", "Can view errors and figures on the status page"),
    ("resilient_site", "operation", "override_breakers", "Can force circuit breakers open or closed"),
    ("compute", "job", "view_job", "Can view job"),
    ("compute", "job", "change_job", "Can change job"),
]


def grant(apps, schema_editor):
    using = schema_editor.connection.alias
    group = apps.get_model("auth", "Group").objects.using(using).filter(name=ADMINISTRATORS).first()
    if group is None:
        return
    # Django itself creates them after all migrations, unless they exist.
    types = apps.get_model("contenttypes", "ContentType").objects.using(using)
    permissions = apps.get_model("auth", "Permission").objects.using(using)
    for app, model, codename, name in GRANTED:
        content_type, _ = types.get_or_create(app_label=app, model=model)
        permission, _ = permissions.get_or_create(
            content_type=content_type, codename=codename, defaults={"name": name}
        )
        group.permissions.add(permission)


class Migration(migrations.Migration):

    dependencies = [
        ("resilient_site", "0002_idempotency"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.CreateModel(
            name="Operation",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ],
            options={
                "permissions": [
                    ("view_status_details", "Can view errors and figures on the status page"),
                    ("override_breakers", "Can force circuit breakers open or closed"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.RunPython(grant, migrations.RunPython.noop),
    ]
