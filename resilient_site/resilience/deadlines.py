"""Until when the request at hand has to be answered.

The edge sets the deadline; whatever waits on the request's behalf asks for it. It
goes where context variables go: into the thread that runs Django for the request.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class DeadlineExceeded(Exception):
    """There is no time left for what was to be done."""


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock, and whether anybody still waits for it."""

    at: float
    is_abandoned: Callable[[], bool] = never


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def begin(deadline: Deadline) -> None:
    """Set the deadline of everything in this context from here on."""
    _current.set(deadline)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let the block take so long, or less if the request has less left."""
    outer = _current.get()
    at = time.monotonic() + seconds
    if outer is not None:
        at = min(at, outer.at)
    token = _current.set(Deadline(at, outer.is_abandoned if outer else never))
    try:
        yield
    finally:
        _current.reset(token)


def remaining() -> float | None:
    """Return the seconds that are left, at least 0; None if there is no deadline."""
    deadline = _current.get()
    return None if deadline is None else max(deadline.at - time.monotonic(), 0.0)


def is_over() -> bool:
    """Tell whether the time is up, or whoever asked has gone away."""
    deadline = _current.get()
    return deadline is not None and (
        deadline.at <= time.monotonic() or deadline.is_abandoned()
    )
