"""Cached responses in memory take no more than their limit."""

import gc
import os
import tracemalloc

import pytest

from resilient_site.edge.cache.cached_response import BODY_MAX_BYTES, CachedResponse
from resilient_site.edge.cache.keys import Key
from resilient_site.edge.cache.store import MAX_SHARE, ResponseCache
from resilient_site.edge.wsgi_bridge import Response
from resilient_site.resilience.cache_control import SHARED

pytestmark = pytest.mark.once

MAX_BYTES = 1024 * 1024
CACHE_FILES = "*/resilient_site/edge/cache/*"


def key(n: int, query: str = "") -> Key:
    return Key(b"localhost", "http", f"/api/v1/items/item-{n}", query, ())


def copy(body: bytes, at: int = 1, headers: int = 12) -> CachedResponse:
    """As one comes from Django: nothing in it is shared with another."""
    fields = [(b"x-header-%d" % n, os.urandom(20)) for n in range(headers)]
    fields.append((b"cache-control", SHARED.encode()))
    fields.append((b"content-length", b"%d" % len(body)))
    response = Response(200, fields, f"tag-{at} tag", body)
    made = CachedResponse.from_response(response, at)
    assert made is not None
    return made


@pytest.mark.parametrize("size", [0, 50_000])
def test_usage_is_the_memory_that_responses_take(size):
    max_bytes = MAX_BYTES if size else MAX_BYTES // 16
    cache = ResponseCache(max_bytes)
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(2 * max_bytes // (size + 2_000)):
            cache.put(key(n, f"search={n:0200}"), copy(os.urandom(size), n))
        gc.collect()
        # Threads of other tests may go on, and allocate elsewhere.
        here = [tracemalloc.Filter(True, name) for name in (__file__, CACHE_FILES)]
        found = tracemalloc.take_snapshot().filter_traces(here)
        taken = sum(trace.size for trace in found.traces)
    finally:
        tracemalloc.stop()
    assert cache.bytes <= max_bytes
    assert 0.4 * cache.bytes < taken <= 1.05 * cache.bytes


def test_least_recently_used_response_is_evicted_first():
    cache = ResponseCache(MAX_BYTES)
    response = copy(b"x" * 1_000)
    for n in range(1000):
        cache.put(key(n), response)
        cache.get(key(n))
        cache.get(key(0))
    assert cache.get(key(0))
    assert cache.get(key(999))
    assert not cache.get(key(1))


def test_large_response_evicts_nothing():
    cache = ResponseCache(MAX_BYTES)
    cache.put(key(1), copy(b"small"))
    cache.put(key(2), copy(b"x" * int(MAX_SHARE * MAX_BYTES)))
    assert cache.get(key(1))
    assert cache.get(key(2)) is None


def test_response_that_was_read_earlier_replaces_none():
    cache = ResponseCache(MAX_BYTES)
    assert cache.put(key(1), copy(b"new", at=2))
    assert not cache.put(key(1), copy(b"old", at=1))
    kept = cache.get(key(1))
    assert kept is not None
    assert kept.body == b"new"
    assert not cache.put(key(1), copy(b"old", at=1))
    assert cache.put(key(1), copy(b"newer", at=2))


def test_large_or_incomplete_response_is_not_stored():
    for length, size in ((BODY_MAX_BYTES + 1,) * 2, (5, 4), (4, 5)):
        headers = [
            (b"content-length", b"%d" % length),
            (b"cache-control", SHARED.encode()),
        ]
        response = Response(200, headers, "", b"x" * size)
        assert CachedResponse.from_response(response, 1) is None
