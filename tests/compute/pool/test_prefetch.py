"""How many claims may wait for a process: as many as take no time."""

import uuid

import pytest

from compute.pool import prefetch
from compute.pool.prefetch import MAX_CLAIMS, WORK_S, Prefetch
from compute.queue import Claim, Step

pytestmark = pytest.mark.once


def claim() -> Claim:
    return Claim(
        uuid.uuid4(), 1, "echo", {}, 1, None, "", "", None, Step.MAIN
    )  # fmt: skip


@pytest.fixture
def short() -> Prefetch:
    """One whose jobs take a millisecond."""
    waiting = Prefetch(2)
    for _ in range(100):
        waiting.record_duration(0.001)
    return waiting


def test_unknown_jobs_are_not_prefetched():
    assert Prefetch(2).capacity(0) == 0


def test_short_jobs_are_prefetched(short):
    assert short.capacity(0) == MAX_CLAIMS
    short.add([claim() for _ in range(5)])
    assert short.capacity(0) == MAX_CLAIMS - 5


def test_none_is_prefetched_behind_a_long_job(short):
    assert short.capacity(longest_running_s=3 * WORK_S) == 0
    short.record_duration(1)
    assert short.capacity(0) == 0
    for _ in range(50):
        short.record_duration(0.001)
    assert short.capacity(0) == MAX_CLAIMS


def test_claims_are_popped_in_order(short):
    claims = [claim() for _ in range(3)]
    short.add(claims)
    assert short.remove([claims[1], claim()]) == [claims[1]]
    assert [short.pop(), short.pop()] == [claims[0], claims[2]]
    assert not short


def test_overdue_claims_are_returned(short, monkeypatch):
    first = claim()
    short.add([first])
    assert not short.overdue()
    monkeypatch.setattr(prefetch, "PATIENCE_S", -1)
    assert short.overdue() == [first]
