"""Writing again what lost against another writer."""

import functools
from collections.abc import Callable

from django.db import IntegrityError, OperationalError, transaction

ATTEMPTS = 3
# Deadlock, and a serialization failure (PostgreSQL, appendix A: class 40).
LOST_AGAINST_ANOTHER = {"40P01", "40001"}


def atomic_with_retries[**P, R](write: Callable[P, R]) -> Callable[P, R]:
    """Run `write` in a transaction, and again if another writer was in its way.

    Two can see the same free id or version, and one finds it taken in the end; that
    one begins anew and sees what the other wrote. What still fails is raised.
    """

    @functools.wraps(write)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(ATTEMPTS - 1):
            try:
                with transaction.atomic():
                    return write(*args, **kwargs)
            except IntegrityError:
                continue
            except OperationalError as error:
                state = getattr(error.__cause__, "sqlstate", None)
                if state not in LOST_AGAINST_ANOTHER:
                    raise
        with transaction.atomic():
            return write(*args, **kwargs)

    return wrapper
