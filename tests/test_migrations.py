"""The version before goes on serving while the database is brought up to this one."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Group
from django.db import connection
from django_migration_linter import MigrationLinter

OURS = ["resilient_site", "items", "compute"]


@pytest.mark.django_db
def test_no_migration_breaks_the_version_before(capsys):
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL serves while it is changed")
    assert set(OURS) <= set(settings.INSTALLED_APPS)
    linter = MigrationLinter(
        str(settings.BASE_DIR), include_apps=OURS, no_cache=True, quiet=["ok", "ignore"]
    )
    linter.lint_all_migrations()
    assert linter.nb_total > 0
    assert not linter.has_errors, capsys.readouterr().out


@pytest.mark.django_db
@pytest.mark.once
def test_administrators_group_keeps_what_staff_could_do():
    migration = import_module("resilient_site.migrations.0003_operation")
    editor = SimpleNamespace(connection=connection)
    migration.grant(apps, editor)  # without such a group
    group = Group.objects.create(name="Administrators")
    migration.grant(apps, editor)
    granted = set(group.permissions.values_list("content_type__app_label", "codename"))
    assert granted == {
        ("resilient_site", "view_status_details"), ("compute", "view_job"),
        ("resilient_site", "override_breakers"), ("compute", "change_job"),
    }  # fmt: skip
