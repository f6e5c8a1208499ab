"""Circuit breakers: a service that does not answer is not called for a while.

A breaker opens after three failures in a row: calls fail at once from then on, with
BreakerOpen. After a pause that doubles with each failed trial, one call is let through,
and the breaker closes if it succeeds. A probe of the service may open and close it as
well (`trip`, `reset`), and an operator may override it.

A service that fails now and then, but never three times in a row, does not open it. The
lock is held to count, never across a call: a guard serves threads and coroutines.
"""

import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
MAX_ERROR_CHARACTERS = 200
_random = random.SystemRandom()  # unlike a seed, not the same in forked processes
_CREDENTIALS = re.compile(r"://[^/\s@]*@")


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class BreakerOpen(Exception):
    """The call was rejected without a trial."""

    def __init__(self, name: str, retry_after_s: float) -> None:
        super().__init__(name, retry_after_s)
        self.name = name
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"Circuit breaker for the {self.name} is open"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a breaker at one moment; `failures` are those in a row."""

    name: str
    state: State
    override: State | None
    failures: int
    last_error: str
    since: datetime
    opens: int
    retry_after_s: float


type Listener = Callable[[Snapshot], object]


class Guard:
    """One guarded call."""

    __slots__ = ("breaker", "epoch", "failures")

    def __init__(self, breaker: "Breaker", failures: tuple[type[Exception], ...]):
        self.breaker, self.failures = breaker, failures

    def __enter__(self) -> Self:
        self.epoch = self.breaker._acquire_permit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, self.failures):
            self.breaker._record_failure(self.epoch, error)
        elif error is None or isinstance(error, Exception):
            self.breaker._record_success(self.epoch)
        else:  # cancelled, or the process ends: that says nothing about the service
            self.breaker._release_permit(self.epoch)


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
        self._override: State | None = None
        self._last_error = ""
        self._opens = 0
        self._epoch = 0
        self._state = State.CLOSED
        self._has_permit = False
        self._enter(State.CLOSED)
        _instances.add(self)

    def guard(self, failures: tuple[type[Exception], ...] = (Exception,)) -> Guard:
        """Return the context of one call; an error of another class is a success."""
        return Guard(self, failures)

    @property
    def state(self) -> State:
        """State that decides on the next call: an override comes first."""
        return self._override or self._state

    @property
    def retry_after_s(self) -> float:
        """How long calls are rejected from now on."""
        if self._override:
            return self.open_max_s if self._override is State.OPEN else 0.0
        if self._state is not State.OPEN:
            return 0.0
        return max(0.0, self._until - self._clock())

    def override(self, state: State | None) -> None:
        """Stay open or closed whatever happens, until None removes the override."""
        if state is State.HALF_OPEN:
            raise ValueError("A breaker is forced open or closed.")
        with self._lock:
            self._override = state
        done = f"forced {state}" if state else "override removed"
        extra = {"event_name": "breaker_overridden", "breaker": self.name}
        logger.warning("Circuit breaker for the %s: %s.", self.name, done, extra=extra)
        self._notify()

    def trip(self, error: BaseException) -> None:
        """Open, or stay open: a probe of the service has failed."""
        with self._lock:
            was_closed = self._state is State.CLOSED
            self._last_error = describe(error)
            self._opens += was_closed
            if self._state is not State.OPEN:
                self._enter(State.OPEN)
        if was_closed:
            self._log_opened()

    def reset(self) -> None:
        """Close: a probe of the service has succeeded."""
        if self._state is State.CLOSED:
            return
        with self._lock:
            self._enter(State.CLOSED)
        self._log_closed()

    def on_transition(self, callback: Listener) -> None:
        """Call `callback` after every transition, in the thread that caused it."""
        self._listeners.append(callback)

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(
                name=self.name,
                state=self._state,
                override=self._override,
                failures=self._failures,
                last_error=self._last_error,
                since=self._since,
                opens=self._opens,
                retry_after_s=self.retry_after_s,
            )

    # --- the steps of a call

    def _acquire_permit(self) -> int:
        with self._lock:
            if self._override is not None or self._state is State.CLOSED:
                if self._override is not State.OPEN:
                    return self._epoch
                raise BreakerOpen(self.name, self.retry_after_s)
            now = self._clock()
            if now < self._until and not self._has_permit:
                raise BreakerOpen(self.name, self._until - now)
            # A trial that never ends must not keep the breaker open for ever.
            is_new_trial = self._state is State.OPEN or now >= self._until
            if is_new_trial:
                self._enter(State.HALF_OPEN)
            self._has_permit = False
            epoch = self._epoch
        if is_new_trial:
            self._notify()
        return epoch

    def _record_failure(self, epoch: int, error: BaseException) -> None:
        with self._lock:
            # A call from before a transition says nothing about the time after it.
            if epoch != self._epoch:
                return
            self._failures += 1
            self._last_error = describe(error)
            if self._override is not None:
                return
            was_closed = self._state is State.CLOSED
            if was_closed and self._failures < MAX_FAILURES:
                return
            self._opens += was_closed
            self._enter(State.OPEN)
        if was_closed:
            self._log_opened()
        else:
            self._notify()

    def _record_success(self, epoch: int) -> None:
        with self._lock:
            if epoch != self._epoch:
                return
            self._failures = 0
            if self._override is not None or self._state is State.CLOSED:
                return
            self._enter(State.CLOSED)
        self._log_closed()

    def _release_permit(self, epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch and self._state is State.HALF_OPEN:
                self._has_permit = True

    def _enter(self, state: State) -> None:
        """Make a transition; under the lock."""
        now = self._clock()
        if state is State.CLOSED:
            self._pause_s = self.open_s
            self._failures = 0
            self._until = now
        elif state is State.OPEN:
            # At random, so that processes do not make their trials together.
            self._until = now + self._pause_s * _random.uniform(0.75, 1)
            self._pause_s = min(self._pause_s * 2, self.open_max_s)
        else:
            self._until = now + self.open_max_s
        self._has_permit = state is State.HALF_OPEN
        self._state = state
        self._epoch += 1
        self._since = datetime.now(UTC)

    # --- outside the lock

    def _log_opened(self) -> None:
        message = "Circuit breaker for the %s opened: %s"
        extra = {"event_name": "breaker_opened", "breaker": self.name}
        logger.warning(message, self.name, self._last_error, extra=extra)
        self._notify()

    def _log_closed(self) -> None:
        extra = {"event_name": "breaker_closed", "breaker": self.name}
        logger.info("Circuit breaker for the %s closed.", self.name, extra=extra)
        self._notify()

    def _notify(self) -> None:
        snapshot = self.snapshot()
        for listener in tuple(self._listeners):
            try:
                listener(snapshot)
            except Exception:
                logger.exception("A listener of a circuit breaker failed.")


def describe(error: BaseException) -> str:
    """Return class and message of an error, without the credentials of a URL."""
    text = _CREDENTIALS.sub("://***@", str(error))
    return f"{type(error).__name__}: {text}"[:MAX_ERROR_CHARACTERS]


_instances: weakref.WeakSet[Breaker] = weakref.WeakSet()


def _unlock_in_child() -> None:
    # Another thread of the parent may have held it; no thread of the child does.
    for breaker in _instances:
        breaker._lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_in_child)

# A cache is tried often: process memory stands in meanwhile.
cache = Breaker("cache", open_s=0.5, open_max_s=1.0)
database = Breaker("database")
broker = Breaker("broker")


def all_breakers() -> tuple[Breaker, ...]:
    return cache, database, broker
