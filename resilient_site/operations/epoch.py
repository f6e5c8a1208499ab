"""A new epoch of the database, after an older dump was put back.

What clients hold of the database (positions in the change feed) is rejected from then
on, and nothing that was cached is shown again.
"""

from typing import Any

from django.conf import settings
from django.core.cache import caches

from resilient_site.edge.cache.invalidation import void_everything
from resilient_site.edge.cache.store import response_store
from resilient_site.models import Epoch, random_epoch


def renew_epoch() -> None:
    Epoch.objects.update_or_create(pk=Epoch.ONLY, defaults={"value": random_epoch()})
    response_store.void()
    void_everything()  # here once more, and on the other machines
    shared: Any = caches["default"]
    if settings.REDIS_URL:
        shared.void()
