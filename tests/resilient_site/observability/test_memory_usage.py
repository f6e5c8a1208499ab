"""What a web process holds: it is known, it is shared, and it does not grow."""

import gc
import os
import tracemalloc
from collections.abc import Iterator

import psutil
import pytest

from resilient_site.observability import memory_profiling
from resilient_site.observability.memory_usage import (
    freeze,
    heap,
    private_bytes,
    resident_bytes,
)
from tests.load import soak
from tests.running import Site

ADDRESS = "/api/v1/heap"
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
def test_a_worker_shares_most_of_its_memory_with_the_master(site):
    (worker,) = psutil.Process(site.process.pid).children()
    memory = worker.memory_full_info()
    # However long it has served: what it is given at the start stays untouched.
    assert memory.rss - memory.uss > SHARED_BYTES
    token = site.manage("create_token", "admin", "--ttl", "1d").stdout.strip()
    told = site.get(ADDRESS, Authorization=f"Token {token}").json()["heap"]
    assert told["pid"] == worker.pid
    assert told["requests_served"] > 0
    assert told["frozen_objects"] > 100_000
    assert told["resident_bytes"] - told["private_bytes"] > SHARED_BYTES


@pytest.mark.once
@pytest.mark.timeout(SECONDS + 100)
def test_it_does_not_grow_whatever_clients_do(site):
    found = soak.soak(site, SECONDS)
    assert found.failures == []
    assert {200, 201, 400, 401, 404, 431} <= set(found.answers)
    assert found.growth < NOISE, found.sizes


def test_what_is_frozen_is_not_looked_through():
    gc.unfreeze()
    before = len(gc.get_objects())
    try:
        freeze()
        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 10
    finally:
        gc.unfreeze()


def test_the_figures_are_those_of_the_system():
    process = psutil.Process()
    assert resident_bytes() == pytest.approx(process.memory_info().rss, rel=0.1)
    assert private_bytes() == pytest.approx(process.memory_full_info().uss, rel=0.1)
    assert heap()["pid"] == os.getpid()


@pytest.fixture
def no_tracing() -> Iterator[None]:
    memory_profiling.stop()
    yield
    memory_profiling.stop()


def test_an_administrator_traces_where_memory_is_taken(client, admin, no_tracing):
    client.force_login(admin)
    assert client.get(ADDRESS).json()["is_tracing"] is False
    switch = {"content_type": "application/json"}
    assert client.post(ADDRESS, {"tracing": True}, **switch).json()["is_tracing"]
    taken = [bytes(1000) for _ in range(1000)]
    told = client.get(ADDRESS, {"lines": 3}).json()
    assert len(told["top"]) == 3
    assert "test_memory_usage.py" in told["top"][0]["line"]
    assert told["top"][0]["bytes"] > len(taken) * 1000
    assert told["heap"]["pid"] == os.getpid()
    ended = client.post(ADDRESS, {"tracing": False}, **switch).json()
    assert (ended["is_tracing"], tracemalloc.is_tracing()) == (False, False)


@pytest.mark.parametrize("query", ["lines=0", "lines=101", "lines=many"])
def test_how_many_lines_is_a_number_with_a_limit(client, admin, query):
    client.force_login(admin)
    answer = client.get(f"{ADDRESS}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["lines"])


@pytest.mark.parametrize("person", ["nobody", "editor", "staff"])
def test_nobody_else_may(client, editor, person):
    if person != "nobody":
        editor.is_staff = person == "staff"
        editor.save()
        client.force_login(editor)
    assert client.get(ADDRESS).status_code in (401, 403)
    answer = client.post(ADDRESS, {"tracing": True}, content_type="application/json")
    assert answer.status_code in (401, 403)
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("limit", ["MOST_S", "MOST_BYTES"])
def test_tracing_ends_by_itself(monkeypatch, no_tracing, limit):
    memory_profiling.start()
    memory_profiling.check()
    assert tracemalloc.is_tracing()
    monkeypatch.setattr(memory_profiling, limit, 0)
    assert memory_profiling.report(1) == {"is_tracing": False, "top": []}
    assert not tracemalloc.is_tracing()
