"""Circuit breakers: a service that does not answer is not called for a while.

A breaker opens after three failures in a row, of which those of calls at the same time
count as one: they met the same moment. Calls fail at once from then on, with
BreakerOpen. After a pause that doubles with each failed trial, one call is let through,
and the breaker closes if it succeeds. A probe of the service may open and close it as
well (`trip`, `reset`), and an operator may override it.

A service that fails now and then, but never three times in a row, does not open it. The
lock is held to count, never across a call: a guard serves threads and coroutines.
"""

import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_ERROR_CHARACTERS = 200
DEGRADED_S = 10.0
_random = random.SystemRandom()  # unlike a seed, not the same in forked processes
_CREDENTIALS = re.compile(r"://[^/\s@]*@")


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Inconclusive(Exception):
    """A call has failed in a way that says nothing about the service."""


class BreakerOpen(Exception):
    """The call was rejected without a trial."""

    def __init__(self, name: str, retry_after_s: float) -> None:
        super().__init__(name, retry_after_s)
        self.name = name
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"Circuit breaker for the {self.name} is open"


type Listener = Callable[[str, State], object]


class Breaker:
    """Circuit breaker of one service, in one process."""

    def __init__(
        self,
        name: str,
        *,
        open_s: float = 1.0,
        open_max_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.open_s, self.open_max_s = open_s, open_max_s
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self.forced: State | None = None
        self.last_error = ""
        self.opens = 0
        self._degradation = ""
        self._failed_at = -math.inf
        self._epoch = 0
        self._state = State.CLOSED
        self._enter(State.CLOSED)
        os.register_at_fork(after_in_child=self._unlock_in_child)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Guard one call, of a thread or a coroutine; raises BreakerOpen."""
        epoch, began = self._acquire_permit(), self._clock()
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, Inconclusive):
                self._record_failure(epoch, error, began)
            else:
                # Cancelled, or the process ends: that says nothing about the service,
                # and the next call makes the trial.
                with self._lock:
                    if epoch == self._epoch:
                        self._until = self._clock()
            raise
        self._record_success(epoch)

    @property
    def state(self) -> State:
        """State that decides on the next call: an override comes first."""
        return self.forced or self._state

    @property
    def retry_after_s(self) -> float:
        """How long calls are rejected from now on."""
        if self.forced:
            return self.open_max_s if self.forced is State.OPEN else 0.0
        if self._state is State.CLOSED:
            return 0.0
        return max(0.0, self._until - self._clock())

    def override(self, state: State | None) -> None:
        """Stay open or closed whatever happens, until None removes the override."""
        with self._lock:
            self.forced = state
        done = f"forced {state}" if state else "override removed"
        extra = {"event_name": "breaker_overridden", "breaker": self.name}
        logger.warning("Circuit breaker for the %s: %s.", self.name, done, extra=extra)

    def trip(self, error: BaseException) -> None:
        """Open, or stay open: a probe of the service has failed."""
        with self._transition():
            self.last_error = describe(error)
            if self._state is not State.OPEN:
                self._enter(State.OPEN)

    def reset(self) -> None:
        """Close: a probe of the service has succeeded."""
        if self._state is not State.CLOSED:
            with self._transition():
                self._enter(State.CLOSED)

    def degrade(self, error: BaseException) -> None:
        """Record that a call has failed while the service does answer others."""
        with self._lock:
            has_begun = not self.degradation
            self._degradation = describe(error)
            self._degraded_until = self._clock() + DEGRADED_S
        if has_begun:
            extra = {"event_name": "service_degraded", "breaker": self.name}
            message = "Some calls of the %s fail: %s"
            logger.error(message, self.name, describe(error), extra=extra)

    @property
    def degradation(self) -> str:
        """The last such failure, if there was one lately."""
        return self._degradation if self._clock() < self._degraded_until else ""

    def on_transition(self, callback: Listener) -> None:
        """Call `callback` after every transition, in the thread that caused it."""
        self._listeners.append(callback)

    # --- the steps of a call

    def _acquire_permit(self) -> int:
        with self._transition():
            is_open = self._state is not State.CLOSED and self._clock() < self._until
            if self.forced is State.OPEN or (self.forced is None and is_open):
                raise BreakerOpen(self.name, self.retry_after_s)
            if self.forced is None and self._state is not State.CLOSED:
                # Also in place of a trial that never ends.
                self._enter(State.HALF_OPEN)
            return self._epoch

    def _record_failure(self, epoch: int, error: BaseException, began: float) -> None:
        with self._transition():
            # A call from before a transition says nothing about the time after it.
            if epoch != self._epoch:
                return
            self.last_error = describe(error)
            if began < self._failed_at:
                return
            self.failures += 1
            self._failed_at = self._clock()
            is_trial = self._state is not State.CLOSED
            if self.forced is None and (is_trial or self.failures >= MAX_FAILURES):
                self._enter(State.OPEN)

    def _record_success(self, epoch: int) -> None:
        with self._transition():
            if epoch != self._epoch:
                return
            self.failures = 0
            if self.forced is None and self._state is not State.CLOSED:
                self._enter(State.CLOSED)

    @contextmanager
    def _transition(self) -> Iterator[None]:
        """Hold the lock; then log a transition that was made, and call listeners."""
        with self._lock:
            before, epoch = self._state, self._epoch
            yield
            after, has_changed = self._state, self._epoch != epoch
        if not has_changed:
            return
        if after is State.CLOSED:
            extra = {"event_name": "breaker_closed", "breaker": self.name}
            logger.info("Circuit breaker for the %s closed.", self.name, extra=extra)
        elif before is State.CLOSED:
            extra = {"event_name": "breaker_opened", "breaker": self.name}
            message = "Circuit breaker for the %s opened: %s"
            logger.warning(message, self.name, self.last_error, extra=extra)
        self._call_listeners()

    def _enter(self, state: State) -> None:
        """Make a transition; under the lock."""
        now = self._clock()
        if state is State.CLOSED:
            self._pause_s = self.open_s
            self.failures = 0
            self._failed_at = -math.inf
            self._until = self._degraded_until = now
        elif state is State.OPEN:
            self.opens += self._state is State.CLOSED
            # At random, so that processes do not make their trials together.
            self._until = now + self._pause_s * _random.uniform(0.75, 1)
            self._pause_s = min(self._pause_s * 2, self.open_max_s)
        else:
            self._until = now + self.open_max_s
        self._state = state
        self._epoch += 1
        self.since = datetime.now(UTC)

    def _call_listeners(self) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(self.name, self._state)
            except Exception:
                logger.exception("A listener of a circuit breaker failed.")

    def _unlock_in_child(self) -> None:
        # Another thread of the parent may have held it; no thread of the child does.
        self._lock = threading.Lock()


def describe(error: BaseException) -> str:
    """Return class and message of an error, without the credentials of a URL."""
    text = _CREDENTIALS.sub("://***@", str(error))
    return f"{type(error).__name__}: {text}"[:MAX_ERROR_CHARACTERS]


# A cache is tried often: process memory stands in meanwhile.
cache = Breaker("cache", open_s=0.5, open_max_s=1.0)
database = Breaker("database")
broker = Breaker("broker")
# No call is rejected for it: it is degraded while it is full.
disk = Breaker("disk")
# Of the replicas of the database, in this process.
of_replicas: list[Breaker] = []


def all_breakers() -> tuple[Breaker, ...]:
    return cache, database, broker, *of_replicas
