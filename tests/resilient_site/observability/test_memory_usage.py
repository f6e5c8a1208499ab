"""Memory of a web process: measured, shared with the master, not growing."""

import os
import statistics
import time
from collections.abc import Iterator

import psutil
import pytest

from resilient_site.observability.memory_usage import resident_bytes
from tests.load.clients import Clients
from tests.running import Site, admin_token

# Longer: `SOAK_S=600 pytest tests/resilient_site/observability/test_memory_usage.py`
SECONDS = float(os.environ.get("SOAK_S", "5"))
# After the warm-up each thread has run each code path.
WARM_UP_SHARE, WARM_UP_ANSWERS = 0.4, 1_000
NOISE = 0.1
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


@pytest.mark.timeout(SECONDS + 100)
def test_web_process_does_not_grow_under_load(site):
    token, sizes = admin_token(), []
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
        clients.pause(SECONDS * WARM_UP_SHARE)
        while clients.answers.total() < WARM_UP_ANSWERS:
            clients.pause(0.1)
        end = time.monotonic() + SECONDS * (1 - WARM_UP_SHARE)
        while time.monotonic() < end:
            sizes.append(worker.memory_info().rss)
            clients.pause(min(1, SECONDS / 30))
    assert worker.is_running()
    assert clients.failures == []
    assert {200, 201, 400, 401, 404} <= set(clients.answers)
    third = len(sizes) // 3
    growth = statistics.median(sizes[-third:]) / statistics.median(sizes[:third]) - 1
    assert growth < NOISE, sizes


def test_web_process_shares_most_of_its_memory_with_the_master(site):
    (worker,) = psutil.Process(site.process.pid).children()
    memory = worker.memory_full_info()
    # However long it has served: the frozen objects stay untouched.
    assert memory.rss - memory.uss > SHARED_BYTES


def test_size_is_that_of_the_system():
    size = psutil.Process().memory_info().rss
    assert resident_bytes() == pytest.approx(size, rel=0.1)
