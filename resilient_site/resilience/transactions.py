"""Writing again what lost against another writer."""

import functools
import sqlite3
from collections.abc import Callable

from django.db import IntegrityError, OperationalError, transaction

from resilient_site.errors import Conflict
from resilient_site.resilience import retries

ATTEMPTS = 6
PAUSE_S = 0.02
PAUSE_MAX_S = 0.1
# Each attempt may wait for SQLite's lock as long as the settings say.
TRIED_FOR_S = 10
# PostgreSQL, appendix A: class 40.
DEADLOCK = "40P01"
SERIALIZATION_FAILURE = "40001"


class Contended(Conflict):
    detail = "Others are writing the same at the moment. Please try again."
    is_outcome = False


def atomic_with_retries[**P, R](write: Callable[P, R]) -> Callable[P, R]:
    """Run `write` in a transaction, and again if another writer was in its way.

    Two can see the same free id or version, and one finds it taken in the end; that
    one begins anew and sees what the other wrote. Raises Contended if it never wins.
    Inside another such write the outer one begins anew. Within any other transaction
    it begins anew at a savepoint; where that does not help, since the whole transaction
    sees too old a state, whoever began that has to do it.
    """

    @functools.wraps(write)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        is_nested = transaction.get_connection().in_atomic_block
        passes = is_lost_at_savepoint if is_nested else is_lost_or_not_begun
        try:
            for attempt in retries.retrying(
                passes,
                attempts=ATTEMPTS,
                pause_s=PAUSE_S,
                pause_max_s=PAUSE_MAX_S,
                within_s=TRIED_FOR_S,
                # The database answers: the other one was only faster.
                budget=None,
            ):
                with attempt, transaction.atomic():
                    return write(*args, **kwargs)
        except (IntegrityError, OperationalError) as error:
            if retries.is_inside() or not is_lost_at_savepoint(error):
                raise
            raise Contended from error
        raise AssertionError("unreachable")

    return wrapper


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
    """Tell whether SQLite was locked, so that nothing has been written.

    Transactions take the write lock when they begin: there is no later moment.
    """
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    # The low byte is the error, the rest its kind.
    return isinstance(error, OperationalError) and code & 0xFF == sqlite3.SQLITE_BUSY


def _sqlstate(error: Exception) -> str | None:
    state: str | None = getattr(error.__cause__, "sqlstate", None)
    return state
