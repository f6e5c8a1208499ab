"""Circuit breakers: what does not answer is left alone for a while.

A breaker lets calls through and counts them over a sliding window. It opens when too
many fail, or are slow, and refuses at once from then on. After a pause that grows with
each vain trial it lets a few calls through, and closes if they succeed.

The lock is held to count, never across a call: a guard serves threads and coroutines.
"""

import logging
import math
import os
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

BUCKETS = 10
ERROR_CHARACTERS = 200
_random = random.SystemRandom()  # unlike a seed, not the same in forked processes
_CREDENTIALS = re.compile(r"://[^/\s@]*@")


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class BreakerOpen(Exception):
    """The call was refused without a try."""

    def __init__(self, name: str, retry_after_s: float) -> None:
        super().__init__(name, retry_after_s)
        self.name = name
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.name} is left alone for {self.retry_after_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a breaker knows at one moment; the counts are those of its window."""

    name: str
    state: State
    held: State | None
    calls: int
    failures: int
    slow: int
    last_error: str
    since: datetime
    opens: int
    retry_after_s: float


type Listener = Callable[[Snapshot], object]


@dataclass(slots=True)
class Bucket:
    ends: float
    calls: int = 0
    failures: int = 0
    slow: int = 0


class Guard:
    """One guarded call."""

    __slots__ = ("breaker", "epoch", "failures", "started")

    def __init__(self, breaker: "Breaker", failures: tuple[type[Exception], ...]):
        self.breaker, self.failures = breaker, failures

    def __enter__(self) -> Self:
        self.epoch = self.breaker._admit()
        self.started = self.breaker._clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, self.failures):
            self.breaker._count(self, error)
        elif error is None or isinstance(error, Exception):
            self.breaker._count(self, None)
        else:  # cancelled, or the process ends: that says nothing about the service
            self.breaker._give_back(self)


class Breaker:
    """Opens after `min_calls` failures in a row, or at a rate of the window."""

    def __init__(
        self,
        name: str,
        *,
        window_s: float = 10,
        min_calls: int = 3,
        failure_rate: float = 0.5,
        slow_call_s: float = math.inf,
        slow_rate: float = 1.0,
        open_s: float = 1.0,
        open_max_s: float = 5.0,
        permits: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.window_s, self.min_calls = window_s, min_calls
        self.failure_rate = failure_rate
        self.slow_call_s, self.slow_rate = slow_call_s, slow_rate
        self.open_s, self.open_max_s, self.permits = open_s, open_max_s, permits
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._held: State | None = None
        self._last_error = ""
        self._opens = 0
        self._buckets: deque[Bucket] = deque(maxlen=BUCKETS + 1)
        self._in_a_row = 0
        self._epoch = 0
        self._begin(State.CLOSED)
        _instances.add(self)

    def guard(self, failures: tuple[type[Exception], ...] = (Exception,)) -> Guard:
        """Return the context of one call; an error of another class is a success."""
        return Guard(self, failures)

    @property
    def state(self) -> State:
        """What decides about the next call: the operator's word comes first."""
        return self._held or self._state

    @property
    def retry_after_s(self) -> float:
        """How long calls are refused from now on."""
        if self._held:
            return self.open_max_s if self._held is State.OPEN else 0.0
        if self._state is not State.OPEN:
            return 0.0
        return max(0.0, self._until - self._clock())

    def hold(self, state: State | None) -> None:
        """Stay open or closed whatever happens, until told None."""
        if state is State.HALF_OPEN:
            raise ValueError("A breaker is held open or closed.")
        with self._lock:
            self._held = state
        done = f"held {state}" if state else "let go"
        logger.warning("%s: breaker %s by the operator.", self.name, done)
        self._tell()

    def trip(self, error: BaseException) -> None:
        """Open, or stay open, on the word of who knows: a probe of the service."""
        with self._lock:
            was_closed = self._state is State.CLOSED
            self._last_error = describe(error)
            self._opens += was_closed
            if self._state is not State.OPEN:
                self._begin(State.OPEN)
        if was_closed:
            self._log("it does not answer")
            self._tell()

    def reset(self) -> None:
        """Close, on the same word."""
        if self._state is State.CLOSED:
            return
        with self._lock:
            self._begin(State.CLOSED)
        self._log("it answers again")
        self._tell()

    def on_transition(self, callback: Listener) -> None:
        """Call `callback` after every transition, in the thread that caused it."""
        self._listeners.append(callback)

    def snapshot(self) -> Snapshot:
        with self._lock:
            window = self._window()
            return Snapshot(
                name=self.name,
                state=self._state,
                held=self._held,
                calls=sum(bucket.calls for bucket in window),
                failures=sum(bucket.failures for bucket in window),
                slow=sum(bucket.slow for bucket in window),
                last_error=self._last_error,
                since=self._since,
                opens=self._opens,
                retry_after_s=self.retry_after_s,
            )

    # --- the three steps of a call

    def _admit(self) -> int:
        with self._lock:
            if self._held is not None or self._state is State.CLOSED:
                if self._held is not State.OPEN:
                    return self._epoch
                raise BreakerOpen(self.name, self.retry_after_s)
            now = self._clock()
            if now < self._until and not self._permits_left:
                # A trial under way is waited for as long as an open breaker is.
                raise BreakerOpen(self.name, self._until - now)
            # A trial that never ended must not keep the breaker shut for ever.
            tried = self._state is State.OPEN or now >= self._until
            if tried:
                self._begin(State.HALF_OPEN)
            self._permits_left -= 1
            epoch = self._epoch
        if tried:
            self._tell()
        return epoch

    def _count(self, call: Guard, error: BaseException | None) -> None:
        with self._lock:
            # A call from before a transition tells nothing about the time after it.
            if call.epoch != self._epoch:
                return
            slow = self._clock() - call.started >= self.slow_call_s
            bucket = self._bucket()
            bucket.calls += 1
            bucket.slow += slow
            if error is not None:
                bucket.failures += 1
                self._in_a_row += 1
                self._last_error = describe(error)
            else:
                self._in_a_row = 0
            reason = self._judge(error is not None or slow)
        if reason:
            self._log(reason)
            self._tell()

    def _give_back(self, call: Guard) -> None:
        with self._lock:
            if call.epoch == self._epoch and self._state is State.HALF_OPEN:
                self._permits_left += 1

    # --- under the lock

    def _judge(self, bad: bool) -> str:
        """Make the transition that is due, and return its reason, if there is one."""
        if self._held is not None:
            return ""
        if self._state is State.HALF_OPEN:
            if bad:
                self._begin(State.OPEN)
                return "the trial failed"
            self._successes += 1
            self._permits_left += 1
            if self._successes < self.permits:
                return ""
            self._begin(State.CLOSED)
            return "it answers again"
        if reason := self._too_bad():
            self._opens += 1
            self._begin(State.OPEN)
        return reason

    def _too_bad(self) -> str:
        if self._in_a_row >= self.min_calls:
            return f"{self._in_a_row} calls in a row failed"
        window = self._window()
        calls = sum(bucket.calls for bucket in window)
        if calls < self.min_calls:
            return ""
        failures = sum(bucket.failures for bucket in window)
        if failures >= calls * self.failure_rate:
            return f"{failures} of {calls} calls failed"
        slow = sum(bucket.slow for bucket in window)
        if slow >= calls * self.slow_rate:
            return f"{slow} of {calls} calls were slow"
        return ""

    def _begin(self, state: State) -> None:
        now = self._clock()
        if state is State.CLOSED:
            self._pause_s = self.open_s
            self._buckets.clear()
            self._in_a_row = 0
            self._until = now
        elif state is State.OPEN:
            # Apart from the other processes, at random.
            self._until = now + self._pause_s * _random.uniform(0.75, 1)
            self._pause_s = min(self._pause_s * 2, self.open_max_s)
        else:
            self._until = now + self.open_max_s
        self._permits_left = self.permits if state is State.HALF_OPEN else 0
        self._successes = 0
        self._state = state
        self._epoch += 1
        self._since = datetime.now(UTC)

    def _bucket(self) -> Bucket:
        now = self._clock()
        if not self._buckets or now >= self._buckets[-1].ends:
            if not self._window():
                self._in_a_row = 0
            self._buckets.append(Bucket(now + self.window_s / BUCKETS))
        return self._buckets[-1]

    def _window(self) -> list[Bucket]:
        start = self._clock() - self.window_s
        return [bucket for bucket in self._buckets if bucket.ends > start]

    # --- outside the lock

    def _log(self, reason: str) -> None:
        if self._state is State.OPEN and reason != "the trial failed":
            logger.warning(
                "%s: breaker open, as %s: %s", self.name, reason, self._last_error
            )
        elif self._state is State.CLOSED:
            logger.info("%s: breaker closed, as %s.", self.name, reason)

    def _tell(self) -> None:
        snapshot = self.snapshot()
        for listener in tuple(self._listeners):
            try:
                listener(snapshot)
            except Exception:
                logger.exception("A listener of breaker %s failed.", self.name)


def describe(error: BaseException) -> str:
    """Return class and message of an error, without the credentials of a URL."""
    text = _CREDENTIALS.sub("://***@", str(error))
    return f"{type(error).__name__}: {text}"[:ERROR_CHARACTERS]


_instances: weakref.WeakSet[Breaker] = weakref.WeakSet()


def _unlock_in_child() -> None:
    # Another thread of the parent may have held it; no thread of the child does.
    for breaker in _instances:
        breaker._lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_in_child)

# A cache is tried often: it has a copy in memory to fall back on meanwhile.
cache = Breaker("cache", open_s=0.5, open_max_s=1.0)
database = Breaker("database")
broker = Breaker("broker")


def all_breakers() -> tuple[Breaker, ...]:
    return cache, database, broker
