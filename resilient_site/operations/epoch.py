"""A new epoch of the database, or a new generation of what is cached of it.

After an older dump was put back, what clients hold of the database (positions in the
change feed) is rejected, and nothing that was cached is shown again. After contents
were removed for good only the latter.
"""

from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.db import transaction
from django.db.models import F

from resilient_site.edge.cache.invalidation import void_everything
from resilient_site.models import Epoch, random_epoch


def renew_epoch() -> None:
    Epoch.objects.update_or_create(pk=Epoch.ONLY, defaults={"value": random_epoch()})
    _void_caches()


def void_caches_with_commit() -> None:
    """Void all that is cached, on all machines, with the current transaction.

    A process that does not receive it finds the new generation in the database:
    within a second, or when it starts.
    """
    rows = Epoch.objects.filter(pk=Epoch.ONLY)
    rows.update(cache_generation=F("cache_generation") + 1)
    transaction.on_commit(_void_caches, robust=True)


def _void_caches() -> None:
    # Not before Django is set up.
    from resilient_site.edge.cache.store import response_store

    response_store.void()
    void_everything()  # here once more, and on the other machines
    shared: Any = caches["default"]
    if settings.REDIS_URL:
        shared.void()
