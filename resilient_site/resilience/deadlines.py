"""Deadlines: until when the current request has to be answered.

The edge sets the deadline in a context variable, which reaches the thread that runs
Django; everything that waits on behalf of the request checks it, down to PostgreSQL. A
read whose client has gone has expired as well. Then the client gets 503 or a stale
response. What is not handled: code that computes and never waits.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Deadline:
    """A time of the monotonic clock, and whether the client has gone before it."""

    at: float
    is_abandoned: Callable[[], bool] = never


current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit the block to `seconds`, or to the rest of the request if that is less."""
    outer = current.get()
    at = time.monotonic() + seconds
    if outer is not None:
        at = min(at, outer.at)
    token = current.set(Deadline(at, outer.is_abandoned if outer else never))
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
