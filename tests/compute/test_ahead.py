"""How many claims may wait for a process: as many as take no time."""

import uuid

import pytest

from compute.pool import prefetch
from compute.pool.prefetch import MOST, WORK_S, Ahead
from compute.queue import Claim, Step

pytestmark = pytest.mark.once


def claim() -> Claim:
    return Claim(
        uuid.uuid4(), 1, "echo", {}, 1, None, "", "", None, Step.MAIN
    )  # fmt: skip


@pytest.fixture
def short() -> Ahead:
    """One whose jobs take a millisecond."""
    waiting = Ahead(2)
    for _ in range(100):
        waiting.note(0.001)
    return waiting


def test_of_jobs_that_nobody_knows_none_waits():
    assert Ahead(2).room(0) == 0


def test_of_short_jobs_some_wait(short):
    assert short.room(0) == MOST
    short.add([claim() for _ in range(5)])
    assert short.room(0) == MOST - 5


def test_behind_a_long_one_none_waits(short):
    assert short.room(under_way_s=3 * WORK_S) == 0
    short.note(1)
    assert short.room(0) == 0
    for _ in range(50):
        short.note(0.001)
    assert short.room(0) == MOST


def test_they_go_in_the_order_in_which_they_came(short):
    claims = [claim() for _ in range(3)]
    short.add(claims)
    assert short.remove([claims[1], claim()]) == [claims[1]]
    assert [short.next(), short.next()] == [claims[0], claims[2]]
    assert not short


def test_who_waits_for_long_is_told(short, monkeypatch):
    first = claim()
    short.add([first])
    assert not short.overdue()
    monkeypatch.setattr(prefetch, "PATIENCE_S", -1)
    assert short.overdue() == [first]
