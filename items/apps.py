from functools import partial
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models.signals import post_migrate

from items import rules
from items.search import create_triggers

EDITORS = "Editors"


class ItemsConfig(AppConfig):
    name = "items"
    verbose_name = "Catalogue"

    def ready(self) -> None:
        from items import search_columns
        from items.changes import health as feed_health
        from items.collections import editing, indexes
        from items.imports import uploads
        from items.models import ImportFile
        from resilient_site.operations import clean_up, doctor
        from resilient_site.storage import files

        clean_up.register("abandoned uploads", uploads.delete_abandoned)
        files.register(ImportFile)
        # Meanwhile the supervisor of the pool renews no leases.
        renew = partial(search_columns.renew, for_s=1)
        clean_up.register("outdated search texts", renew)
        # What was interrupted leaves a schema that writes go on to conform to.
        clean_up.register("abandoned schemas", editing.withdraw_abandoned)
        feed_health.register_all()
        doctor.register("indexes", indexes.examine)
        post_migrate.connect(create_editors_group, sender=self)
        post_migrate.connect(create_general, sender=self)
        post_migrate.connect(keep_search_in_step, sender=self)
        post_migrate.connect(keep_indexes, sender=self)
        post_migrate.connect(settle_restored_changes, sender=self)
        if settings.EVENTS_URL:
            from items.events import health

            health.register_all()


def create_editors_group(using: str, **kwargs: Any) -> None:
    """Create the group whose members may write; permissions exist after migrations."""
    from django.contrib.auth.models import Group, Permission

    group, created = Group.objects.using(using).get_or_create(name=EDITORS)
    if created:
        editing = Permission.objects.using(using).filter(
            content_type__app_label="items",
            content_type__model__in=("collection", "item", "tag"),
        )
        group.permissions.set(editing)


def create_general(using: str, **kwargs: Any) -> None:
    """Create the collection of items that name none, also where tables were emptied."""
    from items.models import Collection

    tables = connections[using].introspection.table_names()
    if Collection._meta.db_table in tables:  # not after a migration back
        Collection.objects.using(using).get_or_create(
            key=rules.GENERAL, defaults={"name": rules.GENERAL.capitalize()}
        )


def keep_indexes(using: str, **kwargs: Any) -> None:
    """Make the indexes of attributes, which a migration of SQLite drops."""
    from items.collections import indexes
    from items.models import Collection

    if using == DEFAULT_DB_ALIAS and (
        Collection._meta.db_table in connection.introspection.table_names()
    ):
        indexes.synchronize()


def settle_restored_changes(using: str, **kwargs: Any) -> None:
    """Move the changes of a restored dump before all that this cluster will write."""
    from items.events.lease import settle_restored
    from items.models import EventRelay

    # A migration back to an earlier state drops the table.
    if using == DEFAULT_DB_ALIAS and (
        EventRelay._meta.db_table in connection.introspection.table_names()
    ):
        settle_restored()


def keep_search_in_step(using: str, **kwargs: Any) -> None:
    """Recreate SQLite's triggers: a migration that rebuilds the table drops them."""
    if connections[using].vendor == "sqlite":
        create_triggers(connections[using])
