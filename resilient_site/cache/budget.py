"""How long a thread may wait for Redis: for one question, and for several together."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class _Clock(threading.local):
    left: float | None = None  # what several questions share
    deadline: float | None = None


_clock = _Clock()


@contextmanager
def shared_budget(seconds: float) -> Iterator[None]:
    """All questions of this block together have `seconds`, counted while they run."""
    outer = _clock.left
    _clock.left = seconds if outer is None else outer
    try:
        yield
    finally:
        _clock.left = outer


def is_spent() -> bool:
    return _clock.left is not None and _clock.left <= 0


@contextmanager
def question(seconds: float) -> Iterator[None]:
    """What this block asks Redis is answered within `seconds`, or TimeoutError."""
    started = time.monotonic()
    shared = _clock.left
    _clock.deadline = started + (seconds if shared is None else min(seconds, shared))
    try:
        yield
    finally:
        _clock.deadline = None
        if shared is not None:
            _clock.left = shared - (time.monotonic() - started)


def remaining_s() -> float | None:
    """Return what is left for the present question; TimeoutError if nothing is."""
    if _clock.deadline is None:
        return None
    left = _clock.deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("The budget is spent")
    return left
