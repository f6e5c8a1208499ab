"""Trying again, within bounds: only what is safe to repeat, and never for long.

Retries help against a short disturbance and prolong a long one. So a process as a whole
makes at most a tenth more calls than it was asked for, none goes on past the deadline,
and of two loops inside each other only the outer one repeats.
"""

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import stamina

from resilient_site.observability import metrics
from resilient_site.resilience import deadlines

_random = random.SystemRandom()  # unlike a seed, not the same in forked processes
_is_inside: ContextVar[bool] = ContextVar("is_inside_retries", default=False)


class RetryBudget:
    """Each first try earns a part of a retry; a few are there to begin with."""

    def __init__(self, ratio: float = 0.1, most: float = 10) -> None:
        self.ratio, self.most = ratio, most
        self.tokens = most
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._unlock)

    def _unlock(self) -> None:
        self._lock = threading.Lock()

    def earn(self) -> None:
        with self._lock:
            self.tokens = min(self.most, self.tokens + self.ratio)

    def spend(self) -> bool:
        with self._lock:
            # Tenths do not add up to a whole exactly.
            if self.tokens < 1 - 1e-9:
                return False
            self.tokens -= 1
            return True


site_budget = RetryBudget()

type On = tuple[type[Exception], ...] | Callable[[Exception], bool]


def is_inside() -> bool:
    """Tell whether an outer loop will repeat what fails here."""
    return _is_inside.get()


class Policy:
    """Tells stamina whether, and after how long, an error is to be tried again."""

    def __init__(
        self,
        on: On,
        attempts: int,
        pause_s: float,
        pause_max_s: float,
        within_s: float,
        budget: RetryBudget | None,
    ) -> None:
        self.on, self.attempts, self.budget = on, attempts, budget
        self.pause_s, self.pause_max_s = pause_s, pause_max_s
        self.until = time.monotonic() + within_s
        self.failed = 0

    def __call__(self, error: Exception) -> bool | float:
        self.failed += 1
        on = self.on
        wanted = isinstance(error, on) if isinstance(on, tuple) else on(error)
        if not wanted or self.failed >= self.attempts:
            return False
        longest = min(self.pause_s * 2 ** (self.failed - 1), self.pause_max_s)
        # Apart from whoever failed at the same moment.
        pause = _random.uniform(0, longest)
        if pause >= self._remaining_s():
            return False
        if self.budget is not None and not self.budget.spend():
            metrics.RETRIES_REJECTED.inc()
            return False
        metrics.RETRIES.inc()
        return pause

    def _remaining_s(self) -> float:
        own, of_request = self.until - time.monotonic(), deadlines.remaining()
        return own if of_request is None else min(own, of_request)


def retrying(
    on: On,
    *,
    attempts: int = 3,
    pause_s: float = 0.05,
    pause_max_s: float = 1.0,
    within_s: float = math.inf,
    budget: RetryBudget | None = site_budget,
) -> Iterator[AbstractContextManager[object]]:
    """Yield attempts: ``for attempt in retrying((SomeError,)): with attempt: ...``.

    `on` says which errors pass by themselves. The block must be safe to repeat: a read,
    or a write that happened either wholly or not at all. The last error gets out. None
    is begun after `within_s`, or after the deadline of the request.
    `budget` is None only where a repeat does not burden what has just failed.
    """
    if _is_inside.get():
        yield nullcontext()
        return
    if budget is not None:
        budget.earn()
    policy = Policy(on, attempts, pause_s, pause_max_s, within_s, budget)
    for attempt in stamina.retry_context(policy, attempts=attempts, timeout=None):
        yield _marked(attempt)


@contextmanager
def _marked(attempt: AbstractContextManager[object]) -> Iterator[None]:
    # stamina swallows the error inside, if there is to be another attempt.
    with attempt:
        token = _is_inside.set(True)
        try:
            yield
        finally:
            _is_inside.reset(token)
