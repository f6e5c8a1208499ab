"""What every test may use: people, clients, and settings that make tests fast."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.cache import caches
from django.core.management.commands import flush
from django.db import DEFAULT_DB_ALIAS, connection
from django.test import Client
from rest_framework.test import APIClient

from items.apps import EDITORS, create_general, keep_indexes
from resilient_site.apps import create_epoch
from resilient_site.edge.cache.invalidation import VOID_SLOT, invalidations
from resilient_site.resilience import breakers

# A loaded machine may take any time for an example.
# CI judges a change by the same examples each time; others find new ones.
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
) -> None:
    """SQLite in a file, as the site has it: in memory its locks are other ones."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = connection.settings_dict["NAME"]


# What is made once and no test changes.
KEPT = {
    Group._meta.db_table, Group.permissions.through._meta.db_table,
    Permission._meta.db_table, ContentType._meta.db_table,
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> None:
    """Delete the few rows of a test, and make anew what the site needs.

    PostgreSQL takes long to truncate all tables, and Django to make all permissions.
    """
    # Of all connections: Playwright's event loop has one of its own.
    operations = type(connection.ops)
    flush_all = operations.sql_flush

    def sql_flush(
        self: Any, style: Any, tables: Iterable[str], **options: Any
    ) -> list[str]:
        tables = [table for table in tables if table not in KEPT]
        if connection.vendor == "postgresql":
            return ["; ".join(f'DELETE FROM "{table}"' for table in tables)]
        return flush_all(self, style, tables, **options)

    def make_anew(*args: Any, **options: Any) -> None:
        create_epoch(using=DEFAULT_DB_ALIAS)
        create_general(using=DEFAULT_DB_ALIAS)
        keep_indexes(using=DEFAULT_DB_ALIAS)

    operations.sql_flush = sql_flush
    flush.emit_post_migrate_signal = make_anew


@pytest.fixture(autouse=True)
def fast_and_alone(settings: Any) -> Iterator[None]:
    """A cheap hash for passwords, and nothing that remembers another test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.WHITENOISE_AUTOREFRESH = True  # else each client lists all static files
    forget_all()
    yield
    forget_all()


def forget_all() -> None:
    if not invalidations.slots.readonly:
        invalidations.slots[VOID_SLOT] = 0
    for alias in settings.CACHES:
        caches[alias].clear()
    for breaker in (breakers.database, breakers.disk):
        breaker._degraded_until = 0.0


@pytest.fixture
def reader(db: None) -> User:
    """Signed in, but not allowed to write."""
    return User.objects.create_user("rita", password="rita-s-password")


@pytest.fixture
def editor(db: None) -> User:
    user = User.objects.create_user("edith", password="edith-s-password")
    user.groups.add(Group.objects.get(name=EDITORS))
    return user


@pytest.fixture
def admin(db: None) -> User:
    return User.objects.create_superuser("ada", password="ada-s-password")


@pytest.fixture
def api(editor: User) -> APIClient:
    """A REST client that may write."""
    client = APIClient()
    client.force_authenticate(editor)
    return client


@pytest.fixture
def anonymous_api(db: None) -> APIClient:
    return APIClient()


@pytest.fixture
def editor_client(client: Client, editor: User) -> Client:
    client.force_login(editor)
    return client
