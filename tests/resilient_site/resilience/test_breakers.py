"""Circuit breakers open, reject, try one call and close again."""

import asyncio
import logging
import os
from contextlib import ExitStack, suppress

import pytest

from resilient_site.resilience.breakers import (
    Breaker,
    BreakerOpen,
    Inconclusive,
    State,
)

pytestmark = pytest.mark.once


class Broken(Exception):
    pass


@pytest.fixture
def breaker(clock):
    return Breaker("test", clock=clock)


def call(breaker, error=None):
    with breaker.guard():
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


def test_breaker_opens_with_the_third_failure(breaker):
    fail(breaker, 2)
    assert (breaker.state, breaker.retry_after_s) == (State.CLOSED, 0)
    fail(breaker)
    with pytest.raises(BreakerOpen, match="breaker for the test is open") as caught:
        call(breaker)
    assert caught.value.name == "test"
    assert 0.75 <= caught.value.retry_after_s <= 1


def test_breaker_stays_closed_while_some_calls_succeed(breaker):
    for _ in range(10):
        fail(breaker, 2)
        call(breaker)
    assert (breaker.state, breaker.failures) == (State.CLOSED, 0)


def test_failures_of_calls_at_the_same_time_count_as_one(breaker, clock):
    def fail_together(calls=8):
        with suppress(Broken), ExitStack() as together:
            for _ in range(calls):
                together.enter_context(breaker.guard())
            clock.now += 0.05
            raise Broken("no answer")

    for failures in (1, 2):
        fail_together()
        assert (breaker.state, breaker.failures) == (State.CLOSED, failures)
    fail_together()
    assert breaker.state is State.OPEN


def test_inconclusive_call_changes_nothing(breaker, clock):
    for _ in range(10):
        with pytest.raises(Inconclusive):
            call(breaker, Inconclusive())
    fail(breaker, 2)
    with pytest.raises(Inconclusive):
        call(breaker, Inconclusive())
    assert (breaker.state, breaker.failures) == (State.CLOSED, 2)
    fail(breaker)
    reopen_time(breaker, clock)
    with pytest.raises(Inconclusive):
        call(breaker, Inconclusive())
    call(breaker)  # the next trial
    assert breaker.state is State.CLOSED


def test_breaker_doubles_its_pause_with_each_failed_trial(breaker, clock):
    fail(breaker, 3)
    pauses = []
    for _ in range(5):
        pauses.append(reopen_time(breaker, clock))
        fail(breaker)
    for pause, longest in zip(pauses, [1, 2, 4, 5, 5], strict=True):
        assert longest * 0.75 <= pause <= longest


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_cancelled_trial_releases_its_permit(breaker, clock, error):
    fail(breaker, 3)
    reopen_time(breaker, clock)
    with pytest.raises(error):
        call(breaker, error())
    assert breaker.state is State.HALF_OPEN
    call(breaker)
    assert breaker.state is State.CLOSED


def test_trial_that_never_ends_is_replaced(breaker, clock):
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
    assert breaker.failures == 0


def test_call_from_before_the_outage_does_not_end_it(breaker, clock):
    before = breaker.guard()
    before.__enter__()
    fail(breaker, 3)
    before.__exit__(None, None, None)
    assert breaker.state is State.OPEN


def test_breaker_describes_itself_without_secrets(breaker):
    begun = breaker.since
    fail(breaker, 2)
    with pytest.raises(Broken):
        call(breaker, Broken("redis://site:secret@cache/0 is down"))
    assert (breaker.forced, breaker.opens, breaker.failures) == (None, 1, 3)
    assert breaker.last_error == "Broken: redis://***@cache/0 is down"
    assert breaker.since > begun


def test_listeners_get_every_transition_and_cannot_break_a_call(breaker, clock):
    heard = []
    breaker.on_transition(lambda name, state: 1 / 0)
    breaker.on_transition(lambda name, state: heard.append(state))
    for state in (State.OPEN, State.CLOSED, None):
        breaker.override(state)
    assert not heard  # that is no transition
    fail(breaker, 3)
    reopen_time(breaker, clock)
    call(breaker)
    assert heard == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_outage_is_logged_once_at_each_end(breaker, clock, caplog):
    caplog.set_level(logging.INFO)
    fail(breaker, 3)
    for _ in range(3):
        reopen_time(breaker, clock)
        fail(breaker)
    reopen_time(breaker, clock)
    call(breaker)
    opened, closed = caplog.records
    assert opened.levelname == "WARNING"
    assert opened.message.startswith("Circuit breaker for the test opened: Broken")
    assert closed.levelname == "INFO"
    assert closed.message == "Circuit breaker for the test closed."
    assert opened.event_name == "breaker_opened"
    assert closed.event_name == "breaker_closed"


def test_service_that_answers_in_part_is_degraded_for_ten_seconds(
    breaker, clock, caplog
):
    for _ in range(3):
        breaker.degrade(Broken("disk full"))
        clock.now += 9.9
        assert breaker.degradation == "Broken: disk full"
    (begun,) = caplog.records
    assert begun.event_name == "service_degraded"
    clock.now += 0.1
    assert (breaker.state, breaker.degradation) == (State.CLOSED, "")
    breaker.degrade(Broken("again"))
    assert len(caplog.records) == 2


def test_override_says_what_it_does_and_for_how_long_calls_are_rejected(
    breaker, caplog
):
    for state, seconds in ((State.OPEN, breaker.open_max_s), (State.CLOSED, 0.0)):
        breaker.override(state)
        assert (breaker.state, breaker.retry_after_s) == (state, seconds)
        assert f"forced {state}" in caplog.messages[-1]
    breaker.override(None)
    assert "override removed" in caplog.messages[-1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_does_not_inherit_a_held_lock(breaker):
    with breaker._lock:
        child = os.fork()
        if not child:
            # Nothing of pytest may run here.
            os._exit(0 if breaker._lock.acquire(blocking=False) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_probe_opens_and_closes_the_breaker(breaker, caplog):
    for _ in range(2):
        breaker.trip(Broken("no answer"))
        assert breaker.state is State.OPEN
        with pytest.raises(BreakerOpen):
            call(breaker)
    assert (breaker.opens, breaker.last_error) == (1, "Broken: no answer")
    for _ in range(2):
        breaker.reset()
        call(breaker)
    assert len(caplog.records) == 2


def test_probe_does_not_change_an_override(breaker):
    breaker.override(State.CLOSED)
    breaker.trip(Broken("no answer"))
    call(breaker)
    breaker.override(State.OPEN)
    breaker.reset()
    with pytest.raises(BreakerOpen):
        call(breaker)
    breaker.override(None)
    call(breaker)
