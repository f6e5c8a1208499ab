"""Admission control: which requests Django's threads serve, and in what order.

What fails: requests come faster than the threads can serve them. A request then waits
in the queue of its class for as long as it will be answered within the patience of
that class, judged by the rate at which the pool has drained lately. Only what would
take longer is rejected, at once, with 503 and a Retry-After of the time until there is
room; the client gets a stale response instead where there is one. This is the only
place that rejects for overload. More urgent classes are served first. Not handled:
requests that wait outside the process, in the listening socket.

Requests, streams and bodies under way take no thread, but memory, disk and connections:
each has a quota, for all clients together and for each (`Quota`).
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from resilient_site.edge.concurrency_limit import ConcurrencyLimit
from resilient_site.edge.request import ClientGone, Priority
from resilient_site.errors import DeadlinePassed, Overloaded, TooManyRequests

LIGHT = tuple(priority for priority in Priority if priority is not Priority.HEAVY)
# The setting of the patience of each class.
PATIENCE = {
    Priority.AUTHENTICATED_WRITE: "write",
    Priority.AUTHENTICATED_READ: "authenticated_read",
    Priority.ANONYMOUS_READ: "anonymous_read",
    Priority.ANONYMOUS_WRITE: "write",
    Priority.HEAVY: "heavy",
}
# Shares of the patience: what the estimate may promise, and when the wait is over. The
# rest is for its error, for the answer itself, and for what a request waits elsewhere.
USABLE_PATIENCE = 0.65
WAIT_MAX = 0.7
# One free thread in so many goes to the class that was served longest ago.
FAIR_TURN = 8
RETRY_AFTER_MAX_S = 60
# What counts where a process may have more, or any number.
CONNECTIONS_MAX = 16_384

# Assumed until measured: the first requests of a process are slow, and say little.
LIGHT_PER_S, LIGHT_WINDOW_S = 500.0, 1.0
HEAVY_PER_S, HEAVY_WINDOW_S = 1.0, 10.0
SLOWEST_PER_S = 0.01


class Rejected(Overloaded):
    """Not admitted: nothing was done."""


class TooManyAtOnce(TooManyRequests):
    code = "too_many_at_once"
    detail = (
        "You have too many requests under way. Please wait until some are answered."
    )
    retry_after_s = 1


class Quota:
    """How much of something may be under way, in all and for each client."""

    def __init__(self, total: int, per_client: int) -> None:
        self.total, self.per_client = total, per_client
        self.used = 0
        self.used_by = Counter[str]()

    def has_room(self, client: str, amount: int = 1) -> bool:
        return self._is_fair(client, amount) and self.used + amount <= self.total

    def check(self, client: str, amount: int = 1) -> None:
        """Raise TooManyAtOnce or Rejected if there is no room for so much more."""
        if not self._is_fair(client, amount):
            raise TooManyAtOnce
        if self.used + amount > self.total:
            raise Rejected

    def _is_fair(self, client: str, amount: int) -> bool:
        # Behind a Unix socket no client is known.
        return not client or self.used_by[client] + amount <= self.per_client

    def take(self, client: str, amount: int = 1) -> None:
        self.used += amount
        self.used_by[client] += amount

    def give_back(self, client: str, amount: int = 1) -> None:
        self.used -= amount
        self.used_by[client] -= amount
        if not self.used_by[client]:
            del self.used_by[client]

    @contextmanager
    def taken(self, client: str) -> Iterator[None]:
        self.take(client)
        try:
            yield
        finally:
            self.give_back(client)


class DrainRate:
    """Completions a second while a pool is full: a moving average for each class.

    It is weighted exponentially, with the time constant `window_s`.
    """

    def __init__(
        self,
        classes: Iterable[Priority],
        per_s: float,
        window_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._per_s = dict.fromkeys(classes, 0.0)
        self._per_s[max(self._per_s)] = per_s
        self._window_s, self._clock = window_s, clock
        self._updated_at = clock()

    def update(self, is_full: bool) -> None:
        """Account for the time since the last update, spent in this state."""
        now = self._clock()
        if is_full:
            decay = math.exp((self._updated_at - now) / self._window_s)
            for priority in self._per_s:
                self._per_s[priority] *= decay
        self._updated_at = now

    def record_completion(self, priority: Priority) -> None:
        self._per_s[priority] += 1 / self._window_s

    def available_to(self, priority: Priority) -> float:
        """Return the rate that more urgent classes leave to this one."""
        left = sum(rate for other, rate in self._per_s.items() if other >= priority)
        fair = sum(self._per_s.values()) / FAIR_TURN
        return max(left, fair, SLOWEST_PER_S)


class Pool:
    """Threads that some classes of requests share, with a queue for each class."""

    def __init__(
        self, classes: Iterable[Priority], limit: Callable[[], float], rate: DrainRate
    ) -> None:
        self.limit, self.rate = limit, rate
        self.running = dict.fromkeys(classes, 0)
        self.waiting: dict[Priority, deque[asyncio.Future[None]]]
        self.waiting = {priority: deque() for priority in self.running}
        self._turn = 0
        self._served_at_turn = Counter[Priority]()

    @property
    def is_full(self) -> bool:
        return sum(self.running.values()) >= self.limit()

    def estimate_completion_s(self, priority: Priority) -> float:
        """Return in how many seconds one more request of this class is answered."""
        self.rate.update(self.is_full)
        queued = sum(len(q) for other, q in self.waiting.items() if other <= priority)
        before = sum(self.running.values()) + queued
        return (before + 1) / self.rate.available_to(priority)

    def start(self, priority: Priority) -> None:
        """Take a thread that is free."""
        self.rate.update(is_full=False)
        self.running[priority] += 1

    def finish(self, priority: Priority) -> None:
        is_full = self.is_full
        self.rate.update(is_full)
        if is_full:
            self.rate.record_completion(priority)
        self.give_back(priority)

    def give_back(self, priority: Priority) -> None:
        self.running[priority] -= 1
        self._start_waiting()

    async def wait(self, priority: Priority, seconds: float) -> None:
        """Wait for a thread. Raises TimeoutError."""
        admitted = asyncio.get_running_loop().create_future()
        self.waiting[priority].append(admitted)
        try:
            async with asyncio.timeout(seconds):
                await admitted
        except (TimeoutError, asyncio.CancelledError):
            if admitted.cancelled():
                with suppress(ValueError):
                    self.waiting[priority].remove(admitted)
            else:
                self.give_back(priority)  # admitted at this very moment
            raise

    def _start_waiting(self) -> None:
        while any(self.waiting.values()) and not self.is_full:
            priority = self._next_class()
            admitted = self.waiting[priority].popleft()
            if admitted.done():
                continue
            self.start(priority)
            admitted.set_result(None)
            self._turn += 1
            self._served_at_turn[priority] = self._turn

    def _next_class(self) -> Priority:
        waiting = [priority for priority, queue in self.waiting.items() if queue]
        if (self._turn + 1) % FAIR_TURN:
            return min(waiting)
        return min(waiting, key=self._served_at_turn.__getitem__)


class Admission:
    """Admission to the `threads` of one process, for one event loop."""

    def __init__(
        self,
        threads: int,
        patience_s: Mapping[str, float],
        is_on: bool = True,
        clock: Callable[[], float] = time.monotonic,
        *,
        connections: int = CONNECTIONS_MAX,
        body_bytes: int = 512 * 1024 * 1024,
    ) -> None:
        # The other half of the connections is for idle ones, probes and cache hits.
        most = min(connections, CONNECTIONS_MAX) // 2
        self.requests = Quota(most, max(most // 4, 1))
        # Fewer than requests, so that a client with many streams can still ask.
        self.streams = Quota(max(most // 2, 1), max(most * 3 // 16, 1))
        self.bodies = Quota(body_bytes, body_bytes // 2)
        # Of clients without a verified credential: in memory, and of any number.
        self.unverified_bodies = Quota(body_bytes // 8, body_bytes // 32)
        self.threads, self.heavy_max = threads, max(threads // 4, 1)
        self.patience_s = {
            priority: patience_s[name] for priority, name in PATIENCE.items()
        }
        self.limit = ConcurrencyLimit(threads - self.heavy_max, clock)
        self.is_on, self._clock = is_on, clock
        light = Pool(
            LIGHT,
            lambda: self.limit.current if self.is_on else math.inf,
            DrainRate(LIGHT, LIGHT_PER_S, LIGHT_WINDOW_S, clock),
        )
        heavy = Pool(
            [Priority.HEAVY],
            lambda: self.heavy_max if self.is_on else math.inf,
            DrainRate([Priority.HEAVY], HEAVY_PER_S, HEAVY_WINDOW_S, clock),
        )
        self.pools = {
            priority: heavy if priority is Priority.HEAVY else light
            for priority in Priority
        }
        self.admitted = dict.fromkeys(Priority, 0)
        self.rejected = dict.fromkeys(Priority, 0)

    @property
    def running(self) -> dict[Priority, int]:
        return {
            priority: pool.running[priority] for priority, pool in self.pools.items()
        }

    @property
    def queued(self) -> dict[Priority, int]:
        return {
            priority: len(pool.waiting[priority])
            for priority, pool in self.pools.items()
        }

    def check(self, priority: Priority, deadline: float) -> None:
        """Raise Rejected if one more request would not be answered in time."""
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise DeadlinePassed
        pool = self.pools[priority]
        # One request of each class may always wait: the estimate may be wrong.
        if not pool.waiting[priority] or not pool.is_full:
            return
        completion_s = pool.estimate_completion_s(priority)
        usable_s = min(self.patience_s[priority] * USABLE_PATIENCE, left_s)
        if completion_s > usable_s:
            raise self._rejection(priority, completion_s - usable_s)

    async def enter(
        self, priority: Priority, deadline: float, is_gone: Callable[[], bool]
    ) -> int:
        """Wait for a thread, and return how many run then; `leave` gives it back.

        Raises Rejected, DeadlinePassed, or ClientGone if `is_gone()` at its turn.
        """
        self.check(priority, deadline)
        pool = self.pools[priority]
        if not pool.is_full:
            pool.start(priority)
        else:
            longest_s = self.patience_s[priority] * WAIT_MAX
            left_s = deadline - self._clock()
            try:
                await pool.wait(priority, min(longest_s, left_s))
            except TimeoutError:
                if self._clock() >= deadline:
                    raise DeadlinePassed from None
                raise self._rejection(priority, 0) from None
            if is_gone():
                pool.give_back(priority)
                raise ClientGone
        self.admitted[priority] += 1
        return sum(pool.running.values())

    def leave(self, priority: Priority, seconds: float | None, running: int) -> None:
        """Give a thread back, after so long, with so many running at its start.

        None if that is not to be taken for the time that such a request takes.
        """
        if seconds is not None and priority is not Priority.HEAVY:
            self.limit.record(priority, seconds, running)
        self.pools[priority].finish(priority)

    def _rejection(self, priority: Priority, room_in_s: float) -> Rejected:
        self.rejected[priority] += 1
        seconds = min(max(math.ceil(room_in_s), 1), RETRY_AFTER_MAX_S)
        return Rejected(retry_after_s=seconds)
