"""Writing again what lost against another writer."""

import functools
import logging
import random
import time
from collections.abc import Callable

from django.db import IntegrityError, OperationalError, transaction

from resilient_site.errors import Conflict

logger = logging.getLogger(__name__)

ATTEMPTS = 6
PAUSE_S = 0.02
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
    Within a transaction it begins anew at a savepoint; where that does not help, since
    the whole transaction sees too old a state, whoever began that has to do it.
    """

    @functools.wraps(write)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        is_nested = transaction.get_connection().in_atomic_block
        retried = {DEADLOCK} if is_nested else {DEADLOCK, SERIALIZATION_FAILURE}
        for attempt in range(ATTEMPTS):
            try:
                with transaction.atomic():
                    return write(*args, **kwargs)
            except (IntegrityError, OperationalError) as error:
                state = getattr(error.__cause__, "sqlstate", None)
                if isinstance(error, OperationalError) and state not in retried:
                    raise
                logger.warning("Writing again, as another writer won: %s", error)
                lost = error
            # Apart from the other one, at random.
            time.sleep(random.uniform(0, PAUSE_S * attempt))  # noqa: S311
        raise Contended from lost

    return wrapper
