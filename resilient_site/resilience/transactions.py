"""Transactions that are retried after a conflict with another writer.

Two writers can see the same free id or version, or deadlock; the one that loses starts
again and sees what the other has written. Its client notices a delay, or 409 after
`ATTEMPTS`. What is not handled: a database that fails; that is for the breaker.
"""

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import stamina
from django.db import IntegrityError, OperationalError, transaction

from resilient_site.errors import Conflict
from resilient_site.resilience import deadlines

ATTEMPTS = 6
WAIT_INITIAL_S = 0.02
WAIT_MAX_S = 0.1
WAIT_JITTER_S = 0.05
# Each attempt may wait for SQLite's lock as long as DATABASES says.
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


def atomic_with_retries[**P, R](write: Callable[P, R]) -> Callable[P, R]:
    """Run `write` in a transaction, and again after a conflict with another writer.

    Raises Contended if every attempt fails. Inside another such write the outer one is
    retried. Within any other transaction it is retried from a savepoint; a conflict
    that needs a new transaction is raised.
    """

    @functools.wraps(write)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if _is_retried.get():
            with transaction.atomic():
                return write(*args, **kwargs)
        is_nested = transaction.get_connection().in_atomic_block
        is_conflict = is_lost_at_savepoint if is_nested else is_lost_or_not_begun
        try:
            for attempt in stamina.retry_context(
                on=lambda error: is_conflict(error) and not deadlines.is_expired(),
                attempts=ATTEMPTS,
                timeout=TIMEOUT_S,
                wait_initial=WAIT_INITIAL_S,
                wait_max=WAIT_MAX_S,
                wait_jitter=WAIT_JITTER_S,
            ):
                with attempt, _marked_as_retried(), transaction.atomic():
                    return write(*args, **kwargs)
        except (IntegrityError, OperationalError) as error:
            if not is_lost_at_savepoint(error):
                raise
            raise Contended from error
        raise AssertionError("unreachable")

    return wrapper


_is_retried: ContextVar[bool] = ContextVar("is_retried", default=False)


@contextmanager
def _marked_as_retried() -> Iterator[None]:
    token = _is_retried.set(True)
    try:
        yield
    finally:
        _is_retried.reset(token)


def is_lost_at_savepoint(error: Exception) -> bool:
    if isinstance(error, OperationalError):
        return _sqlstate(error) == DEADLOCK
    return isinstance(error, IntegrityError)


def is_lost_or_not_begun(error: Exception) -> bool:
    return (
        is_lost_at_savepoint(error)
        or _sqlstate(error) == SERIALIZATION_FAILURE
        or could_not_begin(error)
    )


def could_not_begin(error: Exception) -> bool:
    """Return whether SQLite was locked, so that nothing has been written.

    Transactions take the write lock when they begin: there is no later moment.
    """
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    # The low byte is the error, the rest its kind.
    return isinstance(error, OperationalError) and code & 0xFF == sqlite3.SQLITE_BUSY


def _sqlstate(error: Exception) -> str | None:
    state: str | None = getattr(error.__cause__, "sqlstate", None)
    return state
