from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db import connections
from django.db.models.signals import post_migrate


class SiteConfig(AppConfig):
    name = "resilient_site"
    verbose_name = "Access"

    def ready(self) -> None:
        from resilient_site.accounts import invalidation  # noqa: F401 - signals
        from resilient_site.health import checks
        from resilient_site.observability import tracing
        from resilient_site.operations import clean_up, doctor

        if settings.REDIS_URL:
            # Once, before this process forks: it takes long, and has threads wait.
            import resilient_site.cache.backend  # noqa: F401

        post_migrate.connect(create_epoch, sender=self)
        tracing.instrument()
        clean_up.register_all()
        doctor.register_all()
        checks.register_all()


def create_epoch(using: str, **kwargs: Any) -> None:
    """Create the row of a new database, or of one that was emptied."""
    from resilient_site.models import Epoch

    # A migration back to an earlier state drops the table, or columns of it.
    rows, table = Epoch.objects.using(using), Epoch._meta.db_table
    if table in connections[using].introspection.table_names() and not rows.exists():
        rows.get_or_create(pk=Epoch.ONLY)
