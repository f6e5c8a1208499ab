"""Transactions that are retried after a conflict with another writer.

Two writers can see the same free id or version, or deadlock; the one that loses starts
again and sees what the other has written. Its client notices a delay, or 409 after
`ATTEMPTS`. What is not handled: a database that fails; that is for the breaker.
"""

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar

import stamina
from django.apps import apps
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import AutoField

from resilient_site.errors import Conflict, Unavailable, is_locked
from resilient_site.postgres.connection import ConnectionLost
from resilient_site.resilience import deadlines

ATTEMPTS = 6
WAIT_INITIAL_S = 0.02
WAIT_MAX_S = 0.1
WAIT_JITTER_S = 0.05
TIMEOUT_S = 10.0
# PostgreSQL, appendix A: class 40.
DEADLOCK = "40P01"
SERIALIZATION_FAILURE = "40001"


class Contended(Conflict):
    detail = (
        "Others are changing the same items at the moment. Nothing was changed. "
        "Please try again."
    )
    is_outcome = False


class SequenceBehind(Unavailable):
    detail = (
        "The database gives out ids that are taken: it was restored from a dump "
        "without its sequences. Nothing was changed. An administrator repairs it with "
        "`manage.py doctor --new-epoch`."
    )


def atomic_with_retries[**P, R](write: Callable[P, R]) -> Callable[P, R]:
    """Run `write` in a transaction, and again after a conflict with another writer.

    Raises Contended if every attempt fails. Inside another such write the outer one is
    retried. Within any other transaction it is retried from a savepoint; a conflict
    that needs a new transaction is raised. Raises SequenceBehind as well.
    """

    @functools.wraps(write)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if _is_retried.get():
            with transaction.atomic():
                return write(*args, **kwargs)
        is_nested = transaction.get_connection().in_atomic_block
        locked_until = time.monotonic() + deadlines.lock_wait_s()

        def is_worth_another(error: Exception) -> bool:
            if deadlines.is_expired():
                return False
            if isinstance(error, ConnectionLost) and not is_nested:
                return attempt.num == 1
            if is_locked(error) and not is_nested:
                return time.monotonic() < locked_until
            return is_lost(error, is_nested)

        token = _is_retried.set(True)
        try:
            for attempt in stamina.retry_context(
                on=is_worth_another,
                attempts=ATTEMPTS,
                timeout=TIMEOUT_S,
                wait_initial=WAIT_INITIAL_S,
                wait_max=WAIT_MAX_S,
                wait_jitter=WAIT_JITTER_S,
            ):
                with attempt, transaction.atomic():
                    return write(*args, **kwargs)
        except (IntegrityError, OperationalError) as error:
            if is_lost(error, is_nested):
                raise Contended from error
            check_generated_key(error)
            raise
        finally:
            _is_retried.reset(token)
        raise AssertionError("unreachable")

    return wrapper


_is_retried: ContextVar[bool] = ContextVar("is_retried", default=False)


def check_generated_key(error: Exception) -> None:
    """Raise SequenceBehind if an id that PostgreSQL has just generated is taken."""
    if is_of_generated_key(error):
        raise SequenceBehind from error


def is_of_generated_key(error: Exception) -> bool:
    """Return whether the error is that such an id is taken."""
    diagnostic = getattr(error.__cause__, "diag", None)
    if not diagnostic or not str(diagnostic.constraint_name).endswith("_pkey"):
        return False
    generated = {
        model._meta.db_table
        for model in apps.get_models(include_auto_created=True)
        if isinstance(model._meta.pk, AutoField)
    }
    return diagnostic.table_name in generated


def is_lost(error: Exception, is_nested: bool) -> bool:
    """Return whether another writer came first, so that a new attempt may succeed.

    One within another transaction may where a savepoint is enough for it.
    """
    state = getattr(error.__cause__, "sqlstate", None)
    if is_of_generated_key(error):
        return False
    if isinstance(error, IntegrityError) or state == DEADLOCK:
        return True
    return not is_nested and state == SERIALIZATION_FAILURE
