"""A web process makes way for a new one, and nobody is dropped or refused."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from resilient_site.observability import memory_usage
from resilient_site.operations.worker_recycling import Succession, Term
from tests.load.clients import ITEM, Clients
from tests.private_server import BUSY_S, wait_for
from tests.running import Site

pytestmark = pytest.mark.once


MOST_REQUESTS = 1000


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """One web process at a time. No job ends, as there is no pool."""
    site = Site(
        tmp_path_factory.mktemp("site"),
        RATE_LIMITS="off",
        WEB_MAX_REQUESTS=str(MOST_REQUESTS),
        WEB_KEEP_ALIVE_S="5",
    )
    try:
        yield site.start_web()
    finally:
        site.stop()


@pytest.fixture(scope="module")
def token(site) -> str:
    return site.manage("create_token", "admin", "--ttl", "1d").stdout.strip()


@pytest.fixture(scope="module")
def job(site, token) -> str:
    headers = {"Authorization": f"Token {token}"}
    made = site.request("POST", "/api/v1/jobs/", {"task": "catalogue_report"}, headers)
    assert made.status == 202, made.body
    return made.json()["id"]


def workers(site: Site) -> set[int]:
    """The web processes, whose master is what was started."""
    return {process.pid for process in psutil.Process(site.process.pid).children()}


def test_no_request_is_lost_while_the_only_process_is_replaced(site, token, job):
    seen = workers(site)
    with Clients(site, token) as clients:
        clients.run(clients.read_on_and_on, 2)
        clients.run(clients.read_once, 2)
        clients.run(clients.read_now_and_then, 4)
        clients.run(clients.write)
        clients.run(clients.watch(job), 3)
        deadline = time.monotonic() + 30
        while len(seen) < 5 and time.monotonic() < deadline:
            clients.pause(0.05)
            now = workers(site)
            assert 1 <= len(now) <= 2
            seen |= now
        streams = clients.streams
    assert len(seen) >= 5
    assert clients.failures == []
    assert clients.longest_s < 2 + BUSY_S, clients.longest_s
    # Each was asked for anew when it had ended, and not before.
    assert 6 <= streams <= 3 * len(seen)
    assert "requests: it makes way for a new one." in site.output()
    wait_for(lambda: len(workers(site)) == 1, 15)


def test_a_connection_is_kept_until_an_answer_says_that_it_is_the_last(site):
    (first,) = workers(site)
    with closing(Clients(site).connect()) as connection:
        told = None
        deadline = time.monotonic() + 20
        with Clients(site) as others:
            others.run(others.read_once, 2)
            while told != "close" and time.monotonic() < deadline:
                connection.request("GET", ITEM)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                told = answer.getheader("Connection")
    assert told == "close"
    wait_for(lambda: first not in workers(site), 10)


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
