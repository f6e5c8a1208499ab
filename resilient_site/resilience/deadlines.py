"""Deadlines: until when the current request has to be answered.

The edge sets the deadline in a context variable, which reaches the thread that runs
Django; everything that waits on behalf of the request checks it, down to PostgreSQL. A
read whose client has gone has expired as well. Then the client gets 503 or a stale
response. What is not handled: code that computes and never waits.

A wait for a lock in the database ends earlier, as somebody may hold it for long.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

# Of what is no request, such as jobs and commands.
LOCK_WAIT_S = 10.0
# Of a statement in the database, unless it says otherwise.
STATEMENT_S = 30.0


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Deadline:
    """A time of the monotonic clock, and what ends a wait before it."""

    at: float
    is_abandoned: Callable[[], bool] = never
    lock_wait_s: float = LOCK_WAIT_S


current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit the block to `seconds`, or to the rest of the request if that is less."""
    outer = current.get()
    at = time.monotonic() + seconds
    with _set(replace(outer, at=min(at, outer.at)) if outer else Deadline(at)):
        yield


def until(is_over: Callable[[], bool]) -> AbstractContextManager[None]:
    """End what waits in the block when `is_over()`, whatever the clock says."""
    return _set(Deadline(math.inf, is_over))


@contextmanager
def _set(deadline: Deadline) -> Iterator[None]:
    token = current.set(deadline)
    try:
        yield
    finally:
        current.reset(token)


def is_expired() -> bool:
    """Return whether the deadline has passed or the client has gone."""
    deadline = current.get()
    return deadline is not None and (
        deadline.at <= time.monotonic() or deadline.is_abandoned()
    )


def lock_wait_s() -> float:
    """Return how long to wait for a lock in the database."""
    deadline = current.get()
    return deadline.lock_wait_s if deadline else LOCK_WAIT_S
