"""Memory of a web process: measured, shared with the master, not growing."""

import gc
import os
from collections.abc import Iterator

import psutil
import pytest

from resilient_site.observability.memory_usage import (
    freeze,
    private_bytes,
    resident_bytes,
)
from tests.load import soak
from tests.running import Site

# Longer: `SOAK_S=600 pytest tests/resilient_site/observability/test_memory_usage.py`
SECONDS = float(os.environ.get("SOAK_S", "8"))
NOISE = 0.1
SHARED_BYTES = 50 * 1024 * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), **soak.ENVIRONMENT)
    try:
        yield site.start_web()
    finally:
        site.stop()


@pytest.mark.once
@pytest.mark.timeout(SECONDS + 100)
def test_web_process_does_not_grow_under_load(site):
    found = soak.soak(site, SECONDS)
    assert found.failures == []
    assert {200, 201, 400, 401, 404} <= set(found.answers)
    assert found.growth < NOISE, found.sizes


@pytest.mark.once
def test_web_process_shares_most_of_its_memory_with_the_master(site):
    (worker,) = psutil.Process(site.process.pid).children()
    memory = worker.memory_full_info()
    # However long it has served: the frozen objects stay untouched.
    assert memory.rss - memory.uss > SHARED_BYTES


def test_freeze_takes_objects_from_the_garbage_collector():
    gc.unfreeze()
    before = len(gc.get_objects())
    try:
        freeze()
        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 10
    finally:
        gc.unfreeze()


def test_sizes_are_those_of_the_system():
    process = psutil.Process()
    assert resident_bytes() == pytest.approx(process.memory_info().rss, rel=0.1)
    assert private_bytes() == pytest.approx(process.memory_full_info().uss, rel=0.1)
