"""Memory of a web process: measured, shared with the master, not growing."""

import os
import statistics
import time
from collections.abc import Iterator

import psutil
import pytest

from resilient_site.observability.memory_usage import resident_bytes
from tests.load.clients import Clients
from tests.private_server import wait_for
from tests.running import Site, admin_token

# Longer: `SOAK_S=600 pytest tests/resilient_site/observability/test_memory_usage.py`
SECONDS = float(os.environ.get("SOAK_S", "3"))
# Caches fill and threads run each code path once: how long that takes depends on the
# machine. So a process may grow at first, but not in every one of these turns.
TURNS = 8
NOISE = 0.05
SHARED_BYTES = 40 * 1024 * 1024


pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    # Small caches, so that they are full when the warm-up is over.
    site = Site(
        tmp_path_factory.mktemp("site"),
        RATE_LIMITS="off",
        READ_CACHE_BYTES="1000000",
        CACHE_MEMORY_BYTES="1000000",
        WEB_MAX_REQUESTS="0",
    )
    try:
        yield site.start_web()
    finally:
        site.stop()


@pytest.mark.timeout(SECONDS * (TURNS + 1) + 400)
def test_web_process_does_not_grow_under_load(site):
    token = admin_token()
    headers, task = {"Authorization": f"Token {token}"}, {"task": "catalogue_report"}
    job = site.request("POST", "/api/v1/jobs/", task, headers).json()["id"]
    (worker,) = psutil.Process(site.process.pid).children()
    with Clients(site, token) as clients:
        clients.run(clients.read)
        clients.run(clients.read_once)
        clients.run(clients.search, number=2)
        clients.run(clients.write)
        clients.run(clients.send_invalid)
        clients.run(clients.disconnect)
        clients.run(clients.follow, job, number=3)
        wait_for(lambda: set(clients.answers) >= {200, 201, 400, 401, 404})
        sizes = [size_over(SECONDS, worker, clients)]
        while len(sizes) <= TURNS:
            sizes.append(size_over(SECONDS, worker, clients))
            if sizes[-1] - sizes[-2] < NOISE * sizes[0]:
                break
    assert worker.is_running()
    assert clients.failures == []
    assert sizes[-1] - sizes[-2] < NOISE * sizes[0], sizes


def size_over(seconds: float, worker: psutil.Process, clients: Clients) -> float:
    """The median of the resident bytes over so many seconds."""
    sizes = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sizes.append(worker.memory_info().rss)
        clients.pause(min(1, seconds / 30))
    return statistics.median(sizes)


def test_web_process_shares_most_of_its_memory_with_the_master(site):
    (worker,) = psutil.Process(site.process.pid).children()
    memory = worker.memory_full_info()
    # However long it has served: the frozen objects stay untouched.
    assert memory.rss - memory.uss > SHARED_BYTES


def test_size_is_that_of_the_system():
    size = psutil.Process().memory_info().rss
    assert resident_bytes() == pytest.approx(size, rel=0.1)
