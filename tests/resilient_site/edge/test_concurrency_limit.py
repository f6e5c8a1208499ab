"""The adaptive concurrency limit, with an injected clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge.concurrency_limit import (
    LIMIT_MIN,
    PROBE_EVERY_S,
    PROBE_MAX_S,
    PROBE_SAMPLES,
    TOLERANCE,
    ConcurrencyLimit,
)
from resilient_site.edge.request import Priority
from tests.clock import Clock

pytestmark = pytest.mark.once
READ = Priority.ANONYMOUS_READ


@pytest.fixture
def limit(clock) -> ConcurrencyLimit:
    """A limit whose baseline of reads is 10 ms, after the first probe."""
    limit = ConcurrencyLimit(16, clock)
    limit._probe_at += PROBE_EVERY_S
    for _ in range(50):
        limit.record(READ, 0.01, 1)
    return limit


def load(limit, clock, service_s, number=400, running=None) -> None:
    """Serve so many requests, each with as many others as the limit allows."""
    for _ in range(number):
        clock.now += service_s / limit.current
        limit.record(READ, service_s, limit.current if running is None else running)


def test_limit_falls_to_its_minimum_while_requests_are_slow(limit, clock):
    load(limit, clock, 0.05)
    assert limit.current == LIMIT_MIN


def test_limit_stays_while_requests_take_little_longer_than_alone(limit, clock):
    load(limit, clock, 0.015)
    assert limit.value == 16


def test_limit_recovers(limit, clock):
    load(limit, clock, 0.05)
    load(limit, clock, 0.012, 3000)
    assert limit.value == 16


def test_limit_converges_to_the_capacity_of_the_machine(limit, clock):
    """A machine with four places: more at once take longer in proportion."""
    for _ in range(4000):
        running = limit.current
        service_s = 0.01 * max(1.0, running / 4)
        clock.now += service_s / running
        limit.record(READ, service_s, running)
    assert 4 <= limit.value <= 4 * TOLERANCE + 1


def test_limit_has_a_baseline_for_each_class(limit, clock):
    for _ in range(20):
        limit.record(Priority.AUTHENTICATED_WRITE, 0.1, 1)
    for _ in range(200):
        clock.now += 0.01
        limit.record(Priority.AUTHENTICATED_WRITE, 0.11, 16)
        limit.record(READ, 0.011, 16)
    assert limit.value == 16


def start_probe(limit, clock, after_s=2 * PROBE_EVERY_S) -> None:
    clock.now += after_s
    for _ in range(30):
        clock.now += 0.01
        limit.record(READ, 0.01, 16)
        if limit.is_probing_baseline:
            return
    raise AssertionError("The baseline is never probed.")


def test_limit_probes_the_baseline_periodically(limit, clock):
    start_probe(limit, clock)
    assert limit.current == 1
    for _ in range(PROBE_SAMPLES):
        clock.now += 0.02
        limit.record(READ, 0.02, 1)
    assert limit.current == 16
    assert limit._baselines[READ] > 0.015


def test_probe_ends_in_time_with_a_slow_request(limit, clock):
    start_probe(limit, clock)
    clock.now += PROBE_MAX_S
    assert limit.current == 16
    load(limit, clock, 0.05)
    assert limit.current < 16


@given(
    st.integers(0, 64),
    st.lists(
        st.tuples(
            st.sampled_from(Priority),
            st.floats(0, 1e6),
            st.integers(0, 100),
            st.floats(0, 100),
        )  # fmt: skip
    ),
)
def test_limit_stays_in_its_bounds(largest, notes):
    clock = Clock()
    limit = ConcurrencyLimit(largest, clock)
    for kind, seconds, running, passed in notes:
        clock.now += passed
        limit.record(kind, seconds, running)
        assert LIMIT_MIN <= limit.value <= limit.largest
        assert 1 <= limit.current <= limit.largest
