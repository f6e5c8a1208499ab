"""Who is let in, in which order, and that every place taken is given back."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge import admission as module
from resilient_site.edge.admission import (
    QUEUE_MAX,
    SMALLEST,
    STANDING_PATIENCE_S,
    STANDING_S,
    Admission,
    Refused,
)
from resilient_site.edge.request import Kind
from resilient_site.errors import DeadlinePassed
from tests.resilient_site.edge.clients import run


def here() -> bool:
    return False


def enter(admission, kind=Kind.READ, deadline=None, is_gone=here) -> asyncio.Task:
    at = time.monotonic() + 60 if deadline is None else deadline
    return asyncio.create_task(admission.enter(kind, at, is_gone))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def full(threads: int = 4) -> tuple[Admission, list[Kind]]:
    """Return one whose places for what is light are all taken, by reads."""
    admission = Admission(threads)
    for _ in range(admission.threads - admission.heavy_most):
        await enter(admission)
    return admission, [Kind.READ] * admission.running[Kind.READ]


def assert_empty(admission: Admission) -> None:
    assert admission.running == dict.fromkeys(Kind, 0)
    assert admission.queued == 0


@run
async def test_as_many_as_there_are_places_are_let_in_at_once():
    admission, inside = await full()
    waiting = enter(admission)
    await settle()
    assert not waiting.done()
    admission.leave(Kind.READ, 0.001, 1)
    await waiting
    for kind in inside:
        admission.leave(kind, 0.001, 1)
    assert_empty(admission)


@run
async def test_the_more_urgent_are_let_in_first():
    admission, _ = await full()
    admission.limit.value = 1.0  # one leaves, one enters
    order, waiting = [], []
    # One of each kind may be in: these are.
    for kind in Kind:
        if kind is not Kind.HEAVY:
            admission.running[kind] += 1
    admission.running[Kind.READ] -= 1

    async def come(kind: Kind) -> None:
        await admission.enter(kind, time.monotonic() + 60, here)
        order.append(kind)

    for kind in (Kind.WRITE, Kind.READ, Kind.SIGNED_READ, Kind.SIGNED_WRITE):
        waiting.append(asyncio.create_task(come(kind)))
        await settle()
    admission.limit.value = admission.limit.largest = 10.0
    admission.leave(Kind.READ, 0.001, 9)
    await asyncio.gather(*waiting)
    assert order == sorted(order)


@run
async def test_one_of_each_kind_is_let_in_so_that_none_starves():
    admission = Admission(8)
    admission.limit.value = 2.0
    await asyncio.gather(enter(admission), enter(admission))
    write = enter(admission, Kind.SIGNED_WRITE)
    await settle()
    assert write.done()


@run
async def test_what_is_heavy_takes_no_place_of_others():
    admission = Admission(8)
    for _ in range(admission.heavy_most):
        await enter(admission, Kind.HEAVY)
    heavy = enter(admission, Kind.HEAVY)
    light = [enter(admission) for _ in range(8 - admission.heavy_most)]
    await asyncio.gather(*light)
    assert not heavy.done()
    admission.leave(Kind.HEAVY, 1, 1)
    await heavy


@run
async def test_who_has_waited_long_enough_is_refused_and_counted(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    admission, _ = await full()
    with pytest.raises(Refused) as refused:
        await enter(admission)
    assert (refused.value.status, admission.refused[Kind.READ]) == (503, 1)
    assert 1 <= (refused.value.retry_after_s or 0) <= 3
    assert admission.queued == 0


@run
async def test_the_longer_the_queue_stands_the_shorter_the_wait():
    admission, inside = await full()
    waiting = enter(admission)
    before = [enter(admission, Kind.SIGNED_READ) for _ in inside]
    await settle()
    admission._short_at -= 1
    began = time.monotonic()
    with pytest.raises(Refused):
        await enter(admission)
    assert time.monotonic() - began < 0.5
    newest = enter(admission, Kind.READ)
    await settle()
    for kind in [*inside, Kind.SIGNED_READ]:
        admission.leave(kind, 0.001, 9)
    await asyncio.gather(*before, newest)
    with pytest.raises(Refused):  # who came before would be served too late
        await waiting


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Those who are left when it is short go in as they came.
        (Kind.READ, [6, 5, 4, 3, 0, 1, 2]),
        (Kind.SIGNED_WRITE, [*range(7)]),
    ],
)
def test_of_many_strangers_the_last_one_is_let_in_first(kind, expected):
    @run
    async def test() -> None:
        admission, inside = await full()
        order: list[int] = []
        waiting = [enter(admission, kind) for _ in range(2 * len(inside) + 1)]
        for n, task in enumerate(waiting):
            task.add_done_callback(lambda _, n=n: order.append(n))
        await settle()
        for leaving in [*inside, *[kind] * (len(waiting) - len(inside))]:
            admission.leave(leaving, 0.001, 9)
            await settle()
        assert order == expected

    test()


@run
async def test_a_queue_that_goes_in_at_once_may_stand():
    admission, inside = await full()
    waiting = [enter(admission) for _ in inside]
    await settle()
    admission._short_at -= 1
    last = enter(admission)
    await settle()
    assert not admission.is_standing
    for _ in range(2):
        for kind in inside:
            admission.leave(kind, 0.001, 9)
    await asyncio.gather(*waiting, last)


@run
async def test_while_the_queue_stands_a_stranger_is_turned_away_at_once():
    admission, inside = await full()
    waiting = [enter(admission, kind) for kind in [*inside, Kind.SIGNED_READ]]
    await settle()
    admission.turn_away(Kind.READ)  # it may be a short rush
    admission._short_at -= 1
    with pytest.raises(Refused):
        admission.turn_away(Kind.READ)
    for known in STANDING_PATIENCE_S:
        admission.turn_away(known)
    newcomer = enter(admission)
    await settle()
    assert isinstance(newcomer.exception(), Refused)
    assert admission.queued == len(waiting)
    assert admission.refused[Kind.READ] == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@run
async def test_a_rush_lasts_for_a_while_after_the_last_refusal():
    admission, inside = await full()
    waiting = [enter(admission, kind) for kind in [*inside, Kind.SIGNED_READ]]
    await settle()
    admission._short_at -= 1
    with pytest.raises(Refused):
        admission.turn_away(Kind.READ)
    for kind in [*inside, Kind.SIGNED_READ]:
        admission.leave(kind, 0.001, 9)
    await asyncio.gather(*waiting)
    assert not admission.queued
    assert admission.is_standing
    admission._standing_until -= STANDING_S
    assert not admission.is_standing


@run
async def test_the_queue_is_bounded_and_the_least_urgent_make_room():
    admission, _ = await full()
    reads = [enter(admission) for _ in range(QUEUE_MAX)]
    await settle()
    assert admission.queued == QUEUE_MAX
    with pytest.raises(Refused):
        await enter(admission, Kind.WRITE)
    admission.running[Kind.SIGNED_READ] = 1
    urgent = enter(admission, Kind.SIGNED_READ)
    await settle()
    assert admission.queued == QUEUE_MAX
    assert sum(task.done() for task in reads) == 1
    for task in (*reads, urgent):
        task.cancel()
    await asyncio.gather(*reads, urgent, return_exceptions=True)
    assert admission.queued == 0


@pytest.mark.parametrize("is_on", [True, False])
def test_who_comes_too_late_is_not_let_in(is_on):
    @run
    async def test():
        admission = Admission(4, is_on)
        with pytest.raises(DeadlinePassed):
            await enter(admission, deadline=time.monotonic())
        assert_empty(admission)

    test()


@run
async def test_whose_time_is_up_in_the_queue_is_told_so():
    admission, _ = await full()
    with pytest.raises(DeadlinePassed):
        await enter(admission, deadline=time.monotonic() + 0.01)
    assert admission.queued == 0
    assert admission.running[Kind.READ] == 3


@run
async def test_who_has_gone_is_passed_over():
    admission, _ = await full()
    gone = enter(admission, is_gone=lambda: True)
    next_one = enter(admission)
    await settle()
    admission.leave(Kind.READ, 0.001, 9)
    await next_one
    with pytest.raises(Refused):
        await gone
    assert admission.running[Kind.READ] == 3


@run
async def test_who_is_cancelled_in_the_queue_takes_no_place():
    admission, inside = await full()
    waiting = [enter(admission) for _ in range(3)]
    await settle()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for kind in inside:
        admission.leave(kind, 0.001, 1)
    assert_empty(admission)


@run
async def test_who_is_cancelled_as_he_is_let_in_gives_his_place_to_the_next():
    admission, inside = await full()
    first, second = enter(admission), enter(admission)
    await settle()
    admission.leave(Kind.READ, 0.001, 9)  # lets the first one in
    first.cancel()  # who has not noticed yet
    await second
    for kind in inside:
        admission.leave(kind, 0.001, 1)
    assert_empty(admission)


@run
async def test_who_is_cancelled_as_he_is_refused_takes_nobodys_place():
    admission, inside = await full()
    first = enter(admission)
    await settle()
    admission.waiting[Kind.READ][0].refuse()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    for kind in inside:
        admission.leave(kind, 0.001, 1)
    assert_empty(admission)


class Crowd:
    """Clients who come, are served, go away and are cut off, in any order."""

    def __init__(self, threads: int) -> None:
        self.admission = Admission(threads)
        self.tasks: list[asyncio.Task[None]] = []
        self.gone: list[list[bool]] = []
        self.inside: list[Kind] = []

    async def enter(self, kind: Kind, n: int) -> None:
        gone: list[bool] = []

        async def come() -> None:
            at = time.monotonic() + 60
            await self.admission.enter(kind, at, lambda: bool(gone))
            self.inside.append(kind)

        self.tasks.append(asyncio.create_task(come()))
        self.gone.append(gone)

    async def leave(self, kind: Kind, n: int) -> None:
        if self.inside:
            left = self.inside.pop(n % len(self.inside))
            self.admission.leave(left, 0.001 * n, n)

    async def cancel(self, kind: Kind, n: int) -> None:
        if self.tasks:
            self.tasks[n % len(self.tasks)].cancel()

    async def vanish(self, kind: Kind, n: int) -> None:
        if self.gone:
            self.gone[n % len(self.gone)].append(True)

    async def refuse(self, kind: Kind, n: int) -> None:
        if self.admission.waiting[kind]:
            self.admission.waiting[kind][0].refuse()

    async def settle(self, kind: Kind, n: int) -> None:
        await settle()

    def check(self) -> None:
        admission = self.admission
        assert min(admission.running.values()) >= 0
        assert admission.running[Kind.HEAVY] <= admission.heavy_most
        assert admission.light_running <= max(
            admission.threads - admission.heavy_most, SMALLEST
        )

    async def go_home(self) -> None:
        while self.inside or not all(task.done() for task in self.tasks):
            await settle()
            assert self.inside or not self.admission.queued
            await self.leave(Kind.READ, 1)
        await asyncio.gather(*self.tasks, return_exceptions=True)


EVENTS = ("enter", "leave", "cancel", "vanish", "refuse", "settle")
events = st.tuples(
    st.sampled_from(EVENTS), st.sampled_from(list(Kind)), st.integers(0, 99)
)


@given(st.integers(1, 6), st.lists(events, max_size=60))
def test_whatever_happens_no_place_is_lost(threads, events):
    async def live() -> None:
        crowd = Crowd(threads)
        for what, kind, n in events:
            await getattr(crowd, what)(kind, n)
            crowd.check()
        await crowd.go_home()
        assert_empty(crowd.admission)

    asyncio.run(live())
