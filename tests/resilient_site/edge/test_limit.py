"""The limit that finds itself, on a clock that the tests turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge.admission import (
    ALONE_MAX_S,
    ALONE_S,
    ALONE_SAMPLES,
    SMALLEST,
    TOLERANCE,
    AdaptiveLimit,
)
from resilient_site.edge.request import Kind


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock) -> AdaptiveLimit:
    """One that knows how long a read takes alone: 10 ms."""
    limit = AdaptiveLimit(16, clock)
    for _ in range(50):
        limit.note(Kind.READ, 0.01, 1)
    return limit


def load(limit, clock, service_s, number=400, running=None) -> None:
    """Serve so many one after the other, each with as many others as are let in."""
    for _ in range(number):
        clock.now += service_s / limit.now
        limit.note(Kind.READ, service_s, limit.now if running is None else running)


def test_it_begins_with_all_there_is(clock):
    assert AdaptiveLimit(16, clock).now == 16
    assert AdaptiveLimit(1, clock).now == SMALLEST


def test_it_falls_when_answers_take_long_and_no_further_than_that(limit, clock):
    load(limit, clock, 0.05)
    assert limit.now == SMALLEST


def test_it_stays_while_answers_take_little_longer_than_alone(limit, clock):
    load(limit, clock, 0.015)
    assert limit.value == 16


def test_it_recovers(limit, clock):
    load(limit, clock, 0.05)
    load(limit, clock, 0.012, 3000)
    assert limit.value == 16


def test_it_does_not_rise_for_load_that_does_not_reach_it(limit, clock):
    load(limit, clock, 0.05)
    load(limit, clock, 0.012, 40, running=0)  # the last window of those before
    fallen = limit.value
    assert fallen < 16
    load(limit, clock, 0.012, 400, running=0)
    assert limit.value == fallen


def test_it_finds_what_a_machine_can_do(limit, clock):
    """A machine with four places: more at once take longer in proportion."""
    for _ in range(4000):
        running = limit.now
        service_s = 0.01 * max(1.0, running / 4)
        clock.now += service_s / running
        limit.note(Kind.READ, service_s, running)
    assert 4 <= limit.value <= 4 * TOLERANCE + 1


def test_one_slow_answer_changes_nothing(limit, clock):
    load(limit, clock, 0.01, 19)
    limit.note(Kind.READ, 9.0, 5)
    load(limit, clock, 0.01, 40)
    assert limit.value == 16


def test_kinds_that_take_long_by_nature_do_not_count_as_overload(limit, clock):
    for _ in range(20):
        limit.note(Kind.SIGNED_WRITE, 0.1, 1)
    for _ in range(200):
        clock.now += 0.01
        limit.note(Kind.SIGNED_WRITE, 0.11, 16)
        limit.note(Kind.READ, 0.011, 16)
    assert limit.value == 16


def begin_to_measure(limit, clock) -> None:
    clock.now += 2 * ALONE_S
    for _ in range(30):
        clock.now += 0.01
        limit.note(Kind.READ, 0.01, 16)
        if limit.is_measuring_alone:
            return
    raise AssertionError("It never measures anew.")


def test_now_and_then_the_time_of_one_alone_is_measured_anew(limit, clock):
    begin_to_measure(limit, clock)
    assert limit.now == 1
    for _ in range(ALONE_SAMPLES):
        clock.now += 0.02
        limit.note(Kind.READ, 0.02, 1)
    assert limit.now == 16
    assert limit.service_s(Kind.READ) > 0.015


def test_one_slow_answer_does_not_hold_up_all_others_for_its_time(limit, clock):
    """While it is measured, only one is let in: it may be one that waits for a lock."""
    begin_to_measure(limit, clock)
    clock.now += ALONE_MAX_S
    assert limit.now == 16
    load(limit, clock, 0.05)
    assert limit.now < 16


def test_it_measures_no_more_often_than_it_says(limit, clock):
    begin_to_measure(limit, clock)
    clock.now += ALONE_MAX_S
    load(limit, clock, 0.01, 100)
    assert not limit.is_measuring_alone


def test_a_site_that_has_become_slower_gets_its_places_back(limit, clock):
    for _ in range(20):
        load(limit, clock, 0.03, 300)
        clock.now += ALONE_S
        for _ in range(ALONE_SAMPLES):
            limit.note(Kind.READ, 0.03, 1)
    load(limit, clock, 0.03, 3000)
    assert limit.value > 8


@given(
    st.integers(0, 64),
    st.lists(
        st.tuples(
            st.sampled_from(list(Kind)),
            st.floats(0, 1e6),
            st.integers(0, 100),
            st.floats(0, 100),
        )
    ),
)
def test_whatever_it_is_told_it_stays_in_its_bounds(largest, notes):
    clock = Clock()
    limit = AdaptiveLimit(largest, clock)
    for kind, seconds, running, passed in notes:
        clock.now += passed
        limit.note(kind, seconds, running)
        assert SMALLEST <= limit.value <= limit.largest
        assert 1 <= limit.now <= limit.largest
        assert limit.service_s(kind) >= 0
