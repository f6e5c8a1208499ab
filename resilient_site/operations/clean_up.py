"""Clean-up: deletes rows that have expired, and renews what is outdated.

Apps register their tasks when they are ready. The supervisor of the pool, or Celery's
beat, runs all of them now and then; `manage.py clean_up` does so where there is none.
"""

from collections.abc import Callable
from datetime import timedelta

from django.contrib.sessions.models import Session
from django.utils import timezone

from resilient_site.api import idempotency
from resilient_site.models import ApiToken

# Users still see their expired tokens for this long.
EXPIRED_TOKEN_RETENTION = timedelta(days=7)
DELETE_BATCH = 5_000

# Each deletes or renews rows, not too many at once, and returns how many: jobs wait.
_tasks: dict[str, Callable[[], int]] = {}


def register(name: str, delete: Callable[[], int]) -> None:
    _tasks[name] = delete


def clean_up() -> dict[str, int]:
    """Run each task once, which may leave rows for the next run; return the numbers."""
    return {name: delete() for name, delete in _tasks.items()}


def delete_expired_tokens() -> int:
    limit = timezone.now() - EXPIRED_TOKEN_RETENTION
    batch = ApiToken.objects.filter(expiry__lt=limit).values("pk")[:DELETE_BATCH]
    deleted: int = ApiToken.objects.filter(pk__in=batch).delete()[0]
    return deleted


def delete_expired_sessions() -> int:
    old = Session.objects.filter(expire_date__lt=timezone.now())
    batch = old.order_by("expire_date").values("pk")[:DELETE_BATCH]
    return Session.objects.filter(pk__in=batch).delete()[0]


def register_all() -> None:
    register("expired API tokens", delete_expired_tokens)
    register("expired sessions", delete_expired_sessions)
    register("stored responses to writes", idempotency.delete_expired)
