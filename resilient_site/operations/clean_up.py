"""What has had its time and is deleted, whoever keeps it.

Apps register their chores when they are ready. The pool's supervisor does all of them
now and then, and so does `manage.py clean_up`, for where there is none.
"""

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module

from django.conf import settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from resilient_site.api import idempotency
from resilient_site.models import ApiToken

# For so long a person still sees that his token has expired.
EXPIRED_TOKENS_KEPT_FOR = timedelta(days=7)

# Each deletes what is too old, not too much at a time, and returns how many.
_chores: dict[str, Callable[[], int]] = {}


def register(what: str, forget: Callable[[], int]) -> None:
    _chores[what] = forget


def clean_up() -> dict[str, int]:
    """Do each chore once, which may leave some for later; return the numbers."""
    return {what: forget() for what, forget in _chores.items()}


def forget_tokens() -> int:
    long_ago = timezone.now() - EXPIRED_TOKENS_KEPT_FOR
    deleted: int = ApiToken.objects.filter(expiry__lt=long_ago).delete()[0]
    return deleted


def forget_sessions() -> int:
    expired = Session.objects.filter(expire_date__lt=timezone.now()).count()
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
    return expired


def register_all() -> None:
    register("expired API tokens", forget_tokens)
    register("expired sessions", forget_sessions)
    register("kept answers to writes", idempotency.forget_old)
