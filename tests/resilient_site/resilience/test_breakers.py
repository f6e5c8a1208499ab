"""A breaker opens soon, refuses cheaply, tries carefully and closes again."""

import asyncio
import logging
import os
import threading
import time

import pytest

from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import Breaker, BreakerOpen, State

pytestmark = pytest.mark.once


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Broken(Exception):
    pass


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker("test", clock=clock, slow_call_s=2)


def call(breaker, error=None):
    with breaker.guard(failures=(Broken,)):
        if error is not None:
            raise error


def fail(breaker, times=1):
    for _ in range(times):
        with pytest.raises(Broken):
            call(breaker, Broken("no answer"))


def reopen_time(breaker, clock):
    """Go to the end of the open time, and return how long it was."""
    pause = breaker.retry_after_s
    clock.now += pause
    return pause


def test_it_opens_with_the_third_failure(breaker):
    fail(breaker, 2)
    assert breaker.state is State.CLOSED
    fail(breaker)
    with pytest.raises(BreakerOpen) as caught:
        call(breaker)
    assert caught.value.name == "test"
    assert 0.75 <= caught.value.retry_after_s <= 1


def test_three_in_a_row_open_it_however_many_succeeded_before(breaker):
    for _ in range(1_000):
        call(breaker)
    fail(breaker, 3)
    assert breaker.state is State.OPEN


def test_half_of_the_calls_open_it_though_never_three_in_a_row(breaker):
    for _ in range(2):
        call(breaker)
        fail(breaker)
    assert breaker.state is State.OPEN


def test_less_than_half_do_not(breaker):
    for _ in range(100):
        call(breaker)
        call(breaker)
        fail(breaker)
    assert breaker.state is State.CLOSED


def test_failures_leave_the_window(breaker, clock):
    for _ in range(3):
        call(breaker)
    fail(breaker, 2)
    clock.now += 11.1
    assert breaker.snapshot().calls == 0
    fail(breaker)
    assert breaker.snapshot().failures == 1
    assert breaker.state is State.CLOSED


def test_slow_calls_open_it(breaker, clock):
    for _ in range(3):
        with breaker.guard():
            clock.now += 2
    assert breaker.state is State.OPEN
    assert breaker.snapshot().slow == 3


def test_an_error_of_another_class_is_an_answer(breaker):
    for _ in range(5):
        with pytest.raises(ValueError, match="theirs"):
            call(breaker, ValueError("theirs"))
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().failures == 0


def test_one_success_after_the_pause_closes_it(breaker, clock):
    fail(breaker, 3)
    reopen_time(breaker, clock)
    call(breaker)
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().failures == 0


def test_each_vain_trial_doubles_the_pause_up_to_the_longest(breaker, clock):
    fail(breaker, 3)
    pauses = []
    for _ in range(5):
        pauses.append(reopen_time(breaker, clock))
        fail(breaker)
    for pause, longest in zip(pauses, [1, 2, 4, 5, 5], strict=True):
        assert longest * 0.75 <= pause <= longest


def test_a_success_makes_the_pause_short_again(breaker, clock):
    fail(breaker, 3)
    for _ in range(3):
        reopen_time(breaker, clock)
        fail(breaker)
    reopen_time(breaker, clock)
    call(breaker)
    fail(breaker, 3)
    assert breaker.retry_after_s <= 1


def test_pauses_are_not_alike(clock):
    def pause():
        breaker = Breaker("test", clock=clock)
        fail(breaker, 3)
        return breaker.retry_after_s

    assert len({pause() for _ in range(10)}) > 5


def test_half_open_lets_one_through_at_a_time(breaker, clock):
    fail(breaker, 3)
    reopen_time(breaker, clock)
    with breaker.guard(), pytest.raises(BreakerOpen):
        call(breaker)
    call(breaker)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_a_cancelled_trial_gives_its_permit_back_and_counts_nothing(
    breaker, clock, error
):
    fail(breaker, 3)
    reopen_time(breaker, clock)
    with pytest.raises(error):
        call(breaker, error())
    assert breaker.state is State.HALF_OPEN
    assert breaker.snapshot().calls == 3
    call(breaker)
    assert breaker.state is State.CLOSED


def test_a_trial_that_never_ends_is_not_waited_for_for_ever(breaker, clock):
    fail(breaker, 3)
    reopen_time(breaker, clock)
    hung = breaker.guard()
    hung.__enter__()
    with pytest.raises(BreakerOpen):
        call(breaker)
    clock.now += breaker.open_max_s
    call(breaker)
    assert breaker.state is State.CLOSED
    hung.__exit__(Broken, Broken(), None)
    assert breaker.snapshot().calls == 0


def test_a_call_from_before_the_outage_does_not_end_it(breaker, clock):
    before = breaker.guard()
    before.__enter__()
    fail(breaker, 3)
    before.__exit__(None, None, None)
    assert breaker.state is State.OPEN


def test_several_permits_need_as_many_successes(clock):
    breaker = Breaker("test", clock=clock, permits=2)
    fail(breaker, 3)
    reopen_time(breaker, clock)
    call(breaker)
    assert breaker.state is State.HALF_OPEN
    call(breaker)
    assert breaker.state is State.CLOSED


def test_held_open_it_refuses_all(breaker):
    breaker.hold(State.OPEN)
    with pytest.raises(BreakerOpen):
        call(breaker)
    breaker.hold(None)
    call(breaker)


def test_held_closed_it_lets_all_through(breaker):
    breaker.hold(State.CLOSED)
    fail(breaker, 10)
    assert breaker.snapshot().held is State.CLOSED
    fail(breaker)
    breaker.hold(None)
    fail(breaker)
    assert breaker.state is State.OPEN


def test_the_snapshot_tells_what_happened_without_secrets(breaker):
    begun = breaker.snapshot().since
    with pytest.raises(Broken):
        call(breaker, Broken("redis://site:geheim@cache/0 is away"))
    fail(breaker, 2)
    with pytest.raises(BreakerOpen):
        call(breaker)
    found = breaker.snapshot()
    assert (found.state, found.held, found.opens) == (State.OPEN, None, 1)
    assert (found.calls, found.failures) == (3, 3)
    assert found.last_error == "Broken: no answer"
    assert found.since.tzinfo is not None
    assert found.since > begun
    assert 0 < found.retry_after_s <= 1


def test_credentials_are_left_out_of_errors():
    text = breakers.describe(Broken("redis://site:geheim@cache/0 is away"))
    assert text == "Broken: redis://***@cache/0 is away"


def test_listeners_hear_every_transition_and_cannot_break_a_call(
    breaker, clock, caplog
):
    heard = []
    breaker.on_transition(lambda snapshot: 1 / 0)
    breaker.on_transition(lambda snapshot: heard.append(snapshot.state))
    fail(breaker, 3)
    reopen_time(breaker, clock)
    call(breaker)
    assert heard == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_an_outage_is_one_warning_and_its_end_one_line(breaker, clock, caplog):
    caplog.set_level(logging.INFO)
    fail(breaker, 3)
    for _ in range(3):
        reopen_time(breaker, clock)
        fail(breaker)
    reopen_time(breaker, clock)
    call(breaker)
    opened, closed = caplog.records
    assert opened.levelname == "WARNING"
    assert "test: breaker open, as 3 calls in a row failed" in opened.message
    assert closed.levelname == "INFO"
    assert "test: breaker closed" in closed.message


def test_threads_are_let_through_side_by_side():
    breaker = Breaker("test")
    inside = threading.Barrier(8, timeout=10)

    def ask() -> None:
        with breaker.guard():
            inside.wait()  # all are within the guard at once

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.snapshot().calls == 8
    assert breaker.snapshot().failures == 0


def test_of_many_threads_one_makes_the_trial(breaker, clock):
    fail(breaker, 3)
    reopen_time(breaker, clock)
    together = threading.Barrier(20, timeout=10)
    done = threading.Event()
    tried = []

    def ask() -> None:
        together.wait()
        try:
            with breaker.guard():
                tried.append(1)
                done.wait(10)
        except BreakerOpen:
            refused.release()

    refused = threading.Semaphore(0)
    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(19):
        assert refused.acquire(timeout=10)
    done.set()
    for thread in threads:
        thread.join()
    assert tried == [1]


def test_coroutines_are_guarded_alike():
    breaker = Breaker("test")

    async def ask(error: Exception | None) -> None:
        with breaker.guard(failures=(Broken,)):
            await asyncio.sleep(0)
            if error:
                raise error

    async def ask_all() -> list[object]:
        calls = [ask(Broken()) for _ in range(3)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(BreakerOpen):
            await ask(None)
        return failed

    assert [type(error) for error in asyncio.run(ask_all())] == [Broken] * 3


def test_a_refusal_costs_less_than_20_microseconds(breaker):
    fail(breaker, 3)

    def refusals(number: int = 1_000) -> float:
        started = time.perf_counter()
        for _ in range(number):
            try:
                with breaker.guard():
                    pass
            except BreakerOpen:
                pass
        return (time.perf_counter() - started) / number

    assert min(refusals() for _ in range(5)) < 20e-6


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_may_use_it_though_the_lock_was_held(breaker):
    fail(breaker, 3)
    with breaker._lock:
        child = os.fork()
        if not child:
            # Nothing of pytest may run here.
            os._exit(0 if breaker.snapshot().opens == 1 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_probe_opens_and_closes_it(breaker, caplog):
    for _ in range(2):
        breaker.trip(Broken("no answer"))
        assert breaker.state is State.OPEN
        with pytest.raises(BreakerOpen):
            call(breaker)
    opened = breaker.snapshot()
    assert (opened.opens, opened.last_error) == (1, "Broken: no answer")
    for _ in range(2):
        breaker.reset()
        call(breaker)
    assert len(caplog.records) == 2


def test_a_probe_changes_nothing_that_the_operator_holds(breaker):
    breaker.hold(State.CLOSED)
    breaker.trip(Broken("no answer"))
    call(breaker)
    breaker.hold(State.OPEN)
    breaker.reset()
    with pytest.raises(BreakerOpen):
        call(breaker)


def test_the_site_has_three():
    names = [breaker.name for breaker in breakers.all_breakers()]
    assert names == ["cache", "database", "broker"]
