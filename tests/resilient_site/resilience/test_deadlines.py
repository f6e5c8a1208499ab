"""Deadlines end the waits of their block, and of no other."""

import pytest

from resilient_site.resilience import deadlines

pytestmark = pytest.mark.once


def test_inner_deadline_is_no_later_than_the_outer_one():
    assert deadlines.current.get() is None
    with deadlines.within(600):
        outer = deadlines.current.get()
        with deadlines.within(900):
            assert deadlines.current.get() == outer
        with deadlines.within(0):
            assert deadlines.is_expired()
        assert not deadlines.is_expired()
    assert not deadlines.is_expired()


def test_wait_ends_when_it_is_over_whatever_the_clock_says():
    over: list[bool] = []
    with deadlines.until(lambda: bool(over)):
        assert not deadlines.is_expired()
        over.append(True)
        assert deadlines.is_expired()
    assert not deadlines.is_expired()
