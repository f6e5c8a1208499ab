"""The version before goes on serving while the database is brought up to this one."""

import pytest
from django.conf import settings
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
