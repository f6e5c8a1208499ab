"""A web process makes way for a new one, and nobody is dropped or refused."""

import os
import signal

import pytest

from resilient_site.observability import memory_usage
from resilient_site.operations.worker_recycling import Succession, Term

pytestmark = pytest.mark.once


MOST_REQUESTS = 1000


def test_one_process_at_a_time_makes_way():
    succession = Succession()
    assert succession.claim()
    other = os.fork()
    if not other:
        os._exit(succession.claim())
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    assert not succession.has_left(other)
    assert succession.has_left(os.getpid())
    assert not succession.has_left(os.getpid())


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The signals that the master would have got."""
    asked: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: asked.append(signum))
    return asked


def test_a_process_ends_when_another_one_is_ready(asked):
    succession = Succession()
    succession.announce()
    term = Term(succession, requests=100, size=0)
    assert not term.is_over(79)
    assert asked == []
    assert not term.is_over(100)
    assert not term.is_over(101)
    assert asked == [signal.SIGTTIN]
    succession._write(8, 1)
    assert term.is_over(102)


def test_a_process_that_has_grown_makes_way(asked, monkeypatch):
    monkeypatch.setattr(memory_usage, "resident_bytes", lambda: 100)
    term = Term(Succession(), requests=0, size=90)
    # Not for what it had from the start: its successor would be no smaller.
    assert not term.is_over(10**9)
    assert asked == []
    monkeypatch.setattr(memory_usage, "resident_bytes", lambda: 126)
    assert not term.is_over(0)
    assert asked == [signal.SIGTTIN]


def test_without_limits_it_stays(asked):
    term = Term(Succession(), requests=0, size=0)
    assert not term.is_over(10**12)
    assert asked == []
