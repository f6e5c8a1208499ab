"""Admission control: estimates with an injected clock, order, and no lost thread."""

import asyncio
import math
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge.admission import (
    FAIR_TURN,
    LIGHT,
    RETRY_AFTER_MAX_S,
    USABLE_PATIENCE,
    Admission,
    DrainRate,
    Quota,
    Rejected,
    TooManyAtOnce,
)
from resilient_site.edge.concurrency_limit import LIMIT_MIN
from resilient_site.edge.request import ClientGone, Priority
from resilient_site.errors import DeadlinePassed
from tests.clock import Clock
from tests.resilient_site.edge.clients import run

pytestmark = pytest.mark.once

PATIENCE_S = {
    "anonymous_read": 60.0, "authenticated_read": 120.0, "write": 300.0, "heavy": 300.0,
}  # fmt: skip
FAR_S = 3600.0
WRITE, SIGNED_IN, READ, ANONYMOUS_WRITE, HEAVY = Priority


class Frozen:
    """Admission to four threads, three of them for light requests; no time passes."""

    def __init__(self, per_s: float = 1.0, **patience_s: float) -> None:
        self.clock = Clock()
        self.admission = Admission(4, PATIENCE_S | patience_s, clock=self.clock)
        self.pool = self.admission.pools[READ]
        self.pool.rate = DrainRate(LIGHT, per_s, 1.0, self.clock)
        self.tasks: list[asyncio.Task[int]] = []

    async def enter(
        self,
        kind: Priority = READ,
        count: int = 1,
        deadline_s: float = FAR_S,
    ) -> None:
        for _ in range(count):
            at = self.clock.now + deadline_s
            entering = self.admission.enter(kind, at, lambda: False)
            self.tasks.append(asyncio.create_task(entering))
            await settle()

    async def leave(self, kind: Priority = READ) -> None:
        self.admission.leave(kind, 0.001, 9)
        await settle()

    @property
    def outcomes(self) -> list[BaseException | None]:
        """What became of those that do not wait any more: a rejection, or None."""
        return [task.exception() for task in self.tasks if task.done()]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def assert_empty(admission: Admission) -> None:
    assert not any(admission.running.values())
    assert not any(admission.queued.values())


# --- the estimate


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (READ, "anonymous_read"), (SIGNED_IN, "authenticated_read"),
        (WRITE, "write"), (ANONYMOUS_WRITE, "write"),
    ],
)  # fmt: skip
@run
async def test_request_waits_within_the_patience_of_its_class(kind, name):
    frozen = Frozen(per_s=1.0, **{name: 20.0})
    await frozen.enter(kind, count=20)
    rejected = frozen.admission.rejected[kind]
    assert rejected == 20 - round(20 * USABLE_PATIENCE)
    await frozen.stop()


@pytest.mark.parametrize(
    ("per_s", "expected"),
    [(1, 5 - USABLE_PATIENCE), (4, 1.25 - USABLE_PATIENCE), (0.02, RETRY_AFTER_MAX_S)],
)
@run
async def test_retry_after_is_the_time_until_there_is_room(per_s, expected):
    frozen = Frozen(per_s, anonymous_read=1.0)
    await frozen.enter(count=5)  # three run, and one may always wait
    rejection = frozen.outcomes[-1]
    assert isinstance(rejection, Rejected)
    assert rejection.retry_after_s == math.ceil(expected)
    await frozen.stop()


@run
async def test_less_urgent_requests_do_not_count_as_queued_before():
    frozen = Frozen(per_s=1.0)
    await frozen.enter(READ, count=30)
    before = frozen.pool.estimate_completion_s(SIGNED_IN)
    assert before == 4
    assert frozen.pool.estimate_completion_s(READ) == 31
    await frozen.stop()


@run
async def test_request_that_would_pass_its_deadline_in_the_queue_is_rejected_at_once():
    frozen = Frozen(per_s=1.0)
    await frozen.enter(count=4)
    await frozen.enter(deadline_s=4.5)
    assert isinstance(frozen.outcomes[-1], Rejected)
    await frozen.stop()


def serve(rate, clock, kinds: list[Priority], per_s: float, seconds: float) -> None:
    """Complete requests of these classes in turn, while all threads are busy."""
    for n in range(round(per_s * seconds)):
        clock.now += 1 / per_s
        rate.update(is_full=True)
        rate.record_completion(kinds[n % len(kinds)])


@pytest.mark.parametrize("per_s", [20, 300, 2000])
def test_drain_rate_is_that_of_the_last_seconds(per_s):
    clock = Clock()
    rate = DrainRate(LIGHT, 500.0, 1.0, clock)
    serve(rate, clock, [READ], 50, 3)
    serve(rate, clock, [READ], per_s, 6)
    assert rate.available_to(READ) == pytest.approx(per_s, rel=0.05)


def test_drain_rate_falls_while_threads_are_busy_and_complete_nothing():
    clock = Clock()
    rate = DrainRate(LIGHT, 500.0, 1.0, clock)
    clock.now += 3600
    rate.update(is_full=False)
    assert rate.available_to(READ) == 500
    clock.now += 2
    rate.update(is_full=True)
    assert rate.available_to(READ) == pytest.approx(500 * math.exp(-2))
    clock.now += 3600
    rate.update(is_full=True)
    assert rate.available_to(READ) > 0


def test_drain_rate_of_a_class_is_what_more_urgent_classes_leave():
    clock = Clock()
    rate = DrainRate(LIGHT, 500.0, 1.0, clock)
    kinds = [SIGNED_IN] * 3 + [READ]
    serve(rate, clock, kinds, 400, 10)
    assert rate.available_to(SIGNED_IN) == pytest.approx(400, rel=0.05)
    assert rate.available_to(READ) == pytest.approx(100, rel=0.1)
    assert rate.available_to(ANONYMOUS_WRITE) == pytest.approx(400 / FAIR_TURN, rel=0.1)


@run
async def test_drain_rate_counts_completions_while_all_threads_are_busy():
    frozen = Frozen(per_s=100.0)
    rate = frozen.pool.rate
    frozen.clock.now += 3600  # idle
    await frozen.enter(count=3)
    assert rate.available_to(READ) == 100
    frozen.clock.now += 2
    falling = 100 * math.exp(-2)
    assert frozen.pool.estimate_completion_s(READ) == pytest.approx(4 / falling)
    frozen.clock.now += 1
    await frozen.leave()
    measured = pytest.approx(100 * math.exp(-3) + 1)
    assert rate.available_to(READ) == measured
    frozen.clock.now += 3600  # with a free thread
    await frozen.leave()
    assert rate.available_to(READ) == measured
    await frozen.stop()


@run
async def test_limit_follows_the_time_that_light_requests_take():
    clock = Clock()
    admission = Admission(16, PATIENCE_S, clock=clock)

    async def serve(kind, seconds, running, number):
        for _ in range(number):
            clock.now += 0.01
            await admission.enter(kind, clock.now + FAR_S, lambda: False)
            admission.leave(kind, seconds, running)

    await serve(READ, 0.01, 1, 5)
    await serve(HEAVY, 1.0, 2, 50)
    await serve(READ, None, 2, 50)
    assert admission.limit.value == 12
    await serve(READ, 1.0, 2, 50)
    assert admission.limit.value < 12


# --- the order


async def order_of(frozen: Frozen, leaving: int) -> list[Priority]:
    """Let so many leave one after the other; return the classes that were admitted."""
    order = []
    for _ in range(leaving):
        before = dict(frozen.pool.running)
        kind = next(kind for kind, number in before.items() if number)
        await frozen.leave(kind)
        before[kind] -= 1
        order += [k for k in LIGHT if frozen.pool.running[k] > before[k]]
    return order


@run
async def test_more_urgent_classes_are_admitted_first():
    frozen = Frozen()
    await frozen.enter(count=3)
    kinds = (ANONYMOUS_WRITE, READ, SIGNED_IN, WRITE)
    for kind in kinds:
        await frozen.enter(kind)
    assert await order_of(frozen, 4) == sorted(kinds)
    await frozen.stop()


@run
async def test_no_class_starves():
    frozen = Frozen(per_s=100.0)
    await frozen.enter(WRITE, count=3)
    for kind in LIGHT:
        await frozen.enter(kind, count=5 * FAIR_TURN)
    others = [SIGNED_IN, READ, ANONYMOUS_WRITE, SIGNED_IN]
    expected = [kind for other in others for kind in [WRITE] * 7 + [other]]
    assert await order_of(frozen, 4 * FAIR_TURN) == expected
    await frozen.stop()


@run
async def test_heavy_requests_have_threads_of_their_own():
    frozen = Frozen()
    await frozen.enter(HEAVY, count=2)
    assert len(frozen.outcomes) == 1
    await frozen.enter(count=3)
    assert len(frozen.outcomes) == 4
    await frozen.leave(HEAVY)
    assert len(frozen.outcomes) == 5
    await frozen.stop()


# --- those that do not get that far


@run
async def test_request_is_rejected_when_its_patience_ends_in_the_queue():
    frozen = Frozen(anonymous_read=0.01)
    await frozen.enter(count=3)
    with pytest.raises(Rejected) as rejected:
        await frozen.admission.enter(READ, frozen.clock.now + FAR_S, lambda: False)
    assert rejected.value.retry_after_s == 1
    assert frozen.admission.rejected[READ] == 1
    assert not frozen.pool.waiting[READ]


@run
async def test_deadline_that_passes_in_the_queue_is_named():
    frozen = Frozen()
    await frozen.enter(count=3)
    await frozen.enter(deadline_s=0.01)
    frozen.clock.now += 0.01
    with pytest.raises(DeadlinePassed):
        await frozen.tasks[-1]
    assert not frozen.pool.waiting[READ]


@pytest.mark.parametrize("is_admitted", [False, True])
@run
async def test_client_that_leaves_the_queue_takes_no_thread(is_admitted):
    frozen = Frozen()
    await frozen.enter(count=4)
    if is_admitted:  # at this very moment
        frozen.admission.leave(READ, 0.001, 9)
    frozen.tasks[-1].cancel()
    await settle()
    assert frozen.pool.running[READ] == (2 if is_admitted else 3)
    assert not frozen.pool.waiting[READ]


@pytest.mark.parametrize("is_on", [True, False])
@run
async def test_request_whose_deadline_has_passed_is_not_admitted(is_on):
    clock = Clock()
    admission = Admission(4, PATIENCE_S, is_on, clock)
    with pytest.raises(DeadlinePassed):
        await admission.enter(READ, clock.now, lambda: False)
    assert_empty(admission)
    assert await admission.enter(READ, clock.now + 0.1, lambda: False) == 1


@run
async def test_without_admission_control_everything_is_admitted():
    admission = Admission(4, PATIENCE_S, is_on=False)
    running = [
        await admission.enter(kind, time.monotonic() + FAR_S, lambda: False)
        for kind in Priority
        for _ in range(20)
    ]
    assert running == [*range(1, 81), *range(1, 21)]
    assert admission.admitted == dict.fromkeys(Priority, 20)
    assert not any(admission.rejected.values())


def test_quota_is_for_all_and_for_each_client():
    quota = Quota(4, 2)
    quota.take("a", 2)
    assert (quota.has_room("a"), quota.has_room("b", 2)) == (False, True)
    with pytest.raises(TooManyAtOnce):
        quota.check("a")
    quota.check("b", 2)
    with suppress(RuntimeError), quota.taken("b"):
        quota.take("")  # one of whom nothing is known
        for other in ("b", "c", ""):
            assert not quota.has_room(other)
            with pytest.raises(Rejected):
                quota.check(other)
        raise RuntimeError
    assert (quota.used, quota.used_by) == (3, {"a": 2, "": 1})
    quota.give_back("a", 2)
    assert (quota.has_room("a", 2), quota.has_room("a", 3)) == (True, False)
    assert (quota.used, quota.used_by) == (1, {"": 1})


def test_quotas_follow_from_connections_and_bytes():
    """One client has a quarter of the requests, and fewer streams than requests."""

    def quotas(**limits: int) -> list[tuple[int, int]]:
        made = Admission(8, PATIENCE_S, **limits)
        found = made.requests, made.streams, made.bodies, made.unverified_bodies
        return [(quota.total, quota.per_client) for quota in found]

    assert [Admission(n, PATIENCE_S).heavy_max for n in (1, 7, 8)] == [1, 1, 2]
    assert quotas(connections=1024, body_bytes=512) == [
        (512, 128), (256, 96), (512, 256), (64, 16),
    ]  # fmt: skip
    assert quotas(connections=1_000_000)[0] == (8192, 2048)
    assert quotas(connections=2)[:2] == [(1, 1), (1, 1)]


@run
async def test_client_that_has_gone_at_its_turn_takes_no_thread():
    frozen = Frozen()
    await frozen.enter(count=3)
    at = frozen.clock.now + FAR_S
    entering = asyncio.create_task(frozen.admission.enter(READ, at, lambda: True))
    await settle()
    await frozen.leave()
    with pytest.raises(ClientGone):
        await entering
    assert frozen.admission.running[READ] == 2
    await frozen.stop()


class Clients:
    """Clients that come, are served, leave and are cut off, in any order."""

    def __init__(self, threads: int) -> None:
        self.admission = Admission(threads, PATIENCE_S)
        self.tasks: list[asyncio.Task[None]] = []
        self.gone: list[list[bool]] = []
        self.inside: list[Priority] = []

    async def enter(self, kind: Priority, n: int) -> None:
        gone: list[bool] = []

        async def come() -> None:
            at = time.monotonic() + FAR_S
            await self.admission.enter(kind, at, lambda: bool(gone))
            self.inside.append(kind)

        self.tasks.append(asyncio.create_task(come()))
        self.gone.append(gone)

    async def leave(self, kind: Priority, n: int) -> None:
        if self.inside:
            left = self.inside.pop(n % len(self.inside))
            self.admission.leave(left, 0.001 * n, n)

    async def cancel(self, kind: Priority, n: int) -> None:
        if self.tasks:
            self.tasks[n % len(self.tasks)].cancel()

    async def vanish(self, kind: Priority, n: int) -> None:
        if self.gone:
            self.gone[n % len(self.gone)].append(True)

    async def settle(self, kind: Priority, n: int) -> None:
        await settle()

    def check(self) -> None:
        admission = self.admission
        running = admission.running
        assert min(running.values()) >= 0
        assert running.pop(HEAVY) <= admission.heavy_max
        light_max = max(admission.threads - admission.heavy_max, LIMIT_MIN)
        assert sum(running.values()) <= light_max

    async def go_home(self) -> None:
        while self.inside or not all(task.done() for task in self.tasks):
            await settle()
            assert self.inside or not any(self.admission.queued.values())
            await self.leave(READ, 1)
        await asyncio.gather(*self.tasks, return_exceptions=True)


EVENTS = ("enter", "leave", "cancel", "vanish", "settle")
events = st.tuples(
    st.sampled_from(EVENTS), st.sampled_from(list(Priority)), st.integers(0, 99)
)


@given(st.integers(1, 6), st.lists(events, max_size=60))
def test_no_thread_is_lost_in_any_order_of_events(threads, events):
    async def live() -> None:
        clients = Clients(threads)
        for what, kind, n in events:
            await getattr(clients, what)(kind, n)
            clients.check()
        await clients.go_home()
        assert_empty(clients.admission)

    asyncio.run(live())
