"""The cache in process memory is bounded by bytes and counts like Django's."""

from uuid import uuid4

import pytest

from resilient_site.cache.memory import OVERHEAD_BYTES, MemoryCache

pytestmark = pytest.mark.once

MAX_BYTES = 10_000


@pytest.fixture
def memory():
    return MemoryCache(str(uuid4()), {"OPTIONS": {"MEMORY_BYTES": MAX_BYTES}})


def test_memory_evicts_the_least_recently_used_entry(memory):
    text = "x" * (MAX_BYTES // 3 - OVERHEAD_BYTES - 200)
    for key in "abc":
        memory.set(key, text)
    assert memory.get("a")
    memory.set("d", text)
    assert [key for key in "abcd" if memory.get(key)] == ["a", "c", "d"]


def test_memory_stores_no_value_larger_than_its_limit(memory):
    memory.set("a", "old")
    memory.set("other", "stays")
    memory.set("a", "x" * MAX_BYTES)
    assert memory.get("a") is None
    assert memory.get("other") == "stays"


def test_memory_usage_is_what_the_entries_take(memory):
    for n in range(1_000):
        memory.set(f"key {n}", "x" * (n % 50))
        assert memory.usage.bytes <= MAX_BYTES
    assert 0 < memory.usage.entries == len(memory._cache) < 1_000
    for n in range(1_000):
        memory.delete(f"key {n}")
    assert (memory.usage.bytes, memory.usage.entries) == (0, 0)


def test_memory_usage_ignores_the_size_of_a_counter(memory):
    memory.add("n", 1)
    assert memory.incr("n", 2**60) == 2**60 + 1
    memory.delete("n")
    assert memory.usage.bytes == 0


def test_memory_accepts_any_key(memory):
    for key in ("a b", "line\n", "ü", "x" * 500):
        memory.set(key, key)
        assert memory.get(key) == key
