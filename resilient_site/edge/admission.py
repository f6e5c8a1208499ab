"""How many requests are let in to Django at a time, and which of them first.

More at a time than the machine can do makes all of them slow and none of them sooner
done. How many that is depends on what they do and where, so it is found out: the
limit falls when answers take twice as long as one alone would, and rises while
they do not (as in Netflix's concurrency-limits and Envoy's adaptive concurrency, with
the time of one alone measured anew every now and then). Who cannot be let in waits a
little, and is refused rather than served too late. When more have been waiting for
a while than are let in at a time (a standing queue, as in CoDel, RFC 8289), the queue
is kept short, and strangers beyond it are refused at once. Of many strangers the last
one is let in first: to answer the first one would make all of them wait as long as he
did (adaptive LIFO; Maurer, "Fail at Scale", ACM Queue 13(8), 2015). Whoever is known
is let in as he came, and waits longer.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from statistics import median

from resilient_site.edge.request import Kind
from resilient_site.errors import DeadlinePassed, Overloaded

LIGHT = (Kind.SIGNED_WRITE, Kind.SIGNED_READ, Kind.READ, Kind.WRITE)

SMALLEST = 2.0
# How much longer than alone is still well. Threads take turns in one interpreter: with
# one of them it would be idle while that waits for the database.
TOLERANCE = 2.0
WINDOW = 20
WINDOW_S = 0.1
ALONE_S = 30.0
ALONE_SAMPLES = 10
# One slow answer must not hold up the others for longer.
ALONE_MAX_S = 0.25
SMOOTHING = 0.1

QUEUE_MAX = 100
PATIENCE_S = 1.0
STANDING_S = 0.05
# Then these still wait for so long, and others hardly at all.
STANDING_PATIENCE_S = {Kind.SIGNED_WRITE: 1.0, Kind.SIGNED_READ: 0.5}
STANDING_PATIENCE_MIN_S = 0.02
# Strangers who may be in hand while the queue stands: beside those who are in, who take
# the places of the first to leave.
NEXT = 2
# And for each thread before that is known. More would not get in within the time that a
# queue may stand, and each costs more than a refusal.
STRANGERS_PER_THREAD = 2


class AdaptiveLimit:
    """The number of requests at a time, from how long they take."""

    def __init__(self, largest: int, clock: Callable[[], float] = time.monotonic):
        self.largest = max(float(largest), SMALLEST)
        self.value = self.largest
        self._clock = clock
        self._alone: dict[Kind, float] = {}
        self._ratios: list[float] = []
        self._began = clock()
        self._was_reached = False
        self._measure_alone_at = clock() + ALONE_S * random.uniform(0.8, 1.2)  # noqa: S311
        self._left_to_measure = 0
        self._measuring_until = 0.0

    @property
    def is_measuring_alone(self) -> bool:
        return self._left_to_measure > 0 and self._clock() < self._measuring_until

    @property
    def now(self) -> int:
        return 1 if self.is_measuring_alone else int(self.value)

    def note(self, kind: Kind, seconds: float, running: int) -> None:
        """Take in how long one took, and how many there were with it at its start."""
        if running <= 1:
            self._note_alone(kind, seconds)
        self._was_reached |= running >= self.now
        self._ratios.append(seconds / max(self._alone.get(kind, seconds), 1e-6))
        moment = self._clock()
        if len(self._ratios) >= WINDOW and moment - self._began >= WINDOW_S:
            self._adjust()
            self._ratios.clear()
            self._began, self._was_reached = moment, False
            if moment >= self._measure_alone_at:
                self._begin_to_measure_alone(moment)

    def service_s(self, kind: Kind) -> float:
        return self._alone.get(kind, 0.0)

    def _note_alone(self, kind: Kind, seconds: float) -> None:
        known = self._alone.get(kind)
        if known is None:
            self._alone[kind] = seconds
        else:
            # One slow answer says little, and a fast one that it can be done.
            weight = SMOOTHING if seconds > known else 2 * SMOOTHING
            self._alone[kind] = known + weight * (min(seconds, 4 * known) - known)
        self._left_to_measure = max(self._left_to_measure - 1, 0)

    def _begin_to_measure_alone(self, moment: float) -> None:
        self._left_to_measure = ALONE_SAMPLES
        self._measuring_until = moment + ALONE_MAX_S
        self._measure_alone_at = moment + ALONE_S * random.uniform(0.8, 1.2)  # noqa: S311

    def _adjust(self) -> None:
        if self.is_measuring_alone:
            return
        ratio = median(self._ratios)
        if ratio > TOLERANCE:
            self.value = max(self.value * max(TOLERANCE / ratio, 0.7), SMALLEST)
        elif self._was_reached:
            self.value = min(self.value + 0.5, self.largest)


class Refused(Overloaded):
    """Not let in: nothing was done."""


def refusal() -> Refused:
    # Not all are to come again at the same moment.
    return Refused(retry_after_s=1 + int(3 * random.random()))  # noqa: S311


class Waiter:
    __slots__ = ("came_at", "future", "is_gone", "kind", "timer")

    def __init__(self, kind: Kind, is_gone: Callable[[], bool]) -> None:
        self.kind, self.is_gone = kind, is_gone
        self.came_at = time.monotonic()
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_let_in(self) -> bool:
        future = self.future
        return future.done() and not future.cancelled() and not future.exception()

    def refuse(self) -> None:
        if not self.future.done():
            self.future.set_exception(refusal())


class Admission:
    """The way into the pool of `threads`. For one event loop."""

    def __init__(self, threads: int, is_on: bool = True) -> None:
        self.threads, self.is_on = threads, is_on
        self.heavy_most = max(threads // 4, 1)
        self.limit = AdaptiveLimit(max(threads - self.heavy_most, 1))
        self.running = dict.fromkeys(Kind, 0)
        self.waiting: dict[Kind, deque[Waiter]] = {kind: deque() for kind in Kind}
        self.refused = dict.fromkeys(Kind, 0)
        self.admitted = dict.fromkeys(Kind, 0)
        self._short_at = time.monotonic()
        self._standing_until = 0.0

    @property
    def light_running(self) -> int:
        return sum(self.running[kind] for kind in LIGHT)

    @property
    def queued(self) -> int:
        return sum(map(len, self.waiting.values()))

    async def enter(
        self, kind: Kind, deadline: float, is_gone: Callable[[], bool]
    ) -> int:
        """Wait to be let in; return how many run then.

        Raises Refused, or DeadlinePassed if it is too late already.
        """
        if deadline <= time.monotonic():
            self.refused[kind] += 1
            raise DeadlinePassed
        self.turn_away(kind)
        self._look_at_queue()
        if not self._has_room(kind) or self.waiting[kind]:
            await self._wait(kind, deadline, is_gone)  # counted by who lets it in
        else:
            self.running[kind] += 1
        self.admitted[kind] += 1
        return self.light_running

    def is_hopeless(self, kind: Kind) -> bool:
        """Tell whether one more would be refused, so that nothing need be done."""
        return (
            kind not in STANDING_PATIENCE_S
            and len(self.waiting[kind]) >= self.limit.now
            and self.is_standing
        )

    @property
    def strangers_most(self) -> float:
        """How many reads of strangers may be in hand; beyond that there is no hope."""
        if not self.is_on:
            return math.inf
        if self.is_standing:
            return self.limit.now + NEXT
        return STRANGERS_PER_THREAD * self.threads

    def turn_away(self, kind: Kind) -> None:
        """Raise Refused if there is no hope for one more."""
        if self.is_hopeless(kind):
            self.count_refusal(kind)
            raise refusal()

    def count_refusal(self, kind: Kind) -> None:
        self.refused[kind] += 1
        if self.is_standing:
            self._standing_until = time.monotonic() + STANDING_S

    def leave(self, kind: Kind, seconds: float, running: int) -> None:
        self.running[kind] -= 1
        if kind is not Kind.HEAVY:
            self.limit.note(kind, seconds, running)
        self._let_in()

    def _has_room(self, kind: Kind) -> bool:
        if not self.is_on:
            return True
        if kind is Kind.HEAVY:
            return self.running[kind] < self.heavy_most
        # One of each kind always, so that none starves another.
        running = self.light_running
        return running < self.limit.now or (
            not self.running[kind]
            and not self.limit.is_measuring_alone
            and running < self.threads - self.heavy_most
        )

    async def _wait(
        self, kind: Kind, deadline: float, is_gone: Callable[[], bool]
    ) -> None:
        if self.queued >= QUEUE_MAX and not self._refuse_one_behind(kind):
            self.count_refusal(kind)
            raise refusal()
        waiter = Waiter(kind, is_gone)
        patience = min(self._patience(kind), deadline - time.monotonic())
        loop = asyncio.get_running_loop()
        waiter.timer = loop.call_later(max(patience, 0.0), waiter.refuse)
        self.waiting[kind].append(waiter)
        try:
            await waiter.future
        except Refused:
            self.count_refusal(kind)
            self._remove(waiter)
            if deadline <= time.monotonic():
                raise DeadlinePassed from None
            raise
        except asyncio.CancelledError:
            if waiter.is_let_in:
                self.running[kind] -= 1  # let in, and gone
                self._let_in()
            self._remove(waiter)
            raise
        finally:
            waiter.timer.cancel()

    def _remove(self, waiter: Waiter) -> None:
        if waiter in self.waiting[waiter.kind]:
            self.waiting[waiter.kind].remove(waiter)

    def _patience(self, kind: Kind) -> float:
        if not self.is_standing:
            return PATIENCE_S
        shortest = max(self.limit.service_s(kind), STANDING_PATIENCE_MIN_S)
        return STANDING_PATIENCE_S.get(kind, shortest)

    @property
    def is_standing(self) -> bool:
        """Whether too much comes in: the queue has been long without a break.

        It lasts for as long as some are refused, though the queue left is short.
        """
        moment = time.monotonic()
        if moment < self._standing_until:
            return True
        return moment - self._short_at > STANDING_S and not self._is_short

    @property
    def _is_short(self) -> bool:
        """Whether all who wait are let in when those who are in have left."""
        return self.queued <= int(self.limit.value)

    def _is_newest_first(self, kind: Kind) -> bool:
        """Whether the last to come is let in first, and the first may be refused."""
        return kind not in STANDING_PATIENCE_S and not self._is_short

    def _look_at_queue(self) -> None:
        if self._is_short:
            self._short_at = time.monotonic()

    def _refuse_one_behind(self, kind: Kind) -> bool:
        for behind in reversed(Kind):
            if behind > kind and self.waiting[behind]:
                self.waiting[behind].popleft().refuse()
                return True
        return False

    def _refuse_the_late(self, kind: Kind) -> None:
        """Let nobody wait on who came when it was not known yet how long that is."""
        queue = self.waiting[kind]
        since = time.monotonic() - self._patience(kind)
        while queue and queue[0].came_at < since:
            queue.popleft().refuse()

    def _let_in(self) -> None:
        is_standing = self.is_standing
        for kind in Kind:
            queue = self.waiting[kind]
            if is_standing and kind not in STANDING_PATIENCE_S:
                self._refuse_the_late(kind)
            while queue and self._has_room(kind):
                waiter = queue.pop() if self._is_newest_first(kind) else queue.popleft()
                if waiter.future.done():
                    continue
                if waiter.is_gone():
                    waiter.refuse()
                    continue
                self.running[kind] += 1
                waiter.future.set_result(None)
        self._look_at_queue()
