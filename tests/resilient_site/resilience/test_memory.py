"""What a process remembers keeps to its bytes, its ends and its counts."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.cache.lru import OVERHEAD_BYTES, Memory

pytestmark = pytest.mark.once


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(clock):
    return Memory(10_000, clock)


def test_a_value_is_there_until_its_end(memory, clock):
    memory.set("a", b"1", 10)
    memory.set("b", b"2", None)
    clock.now = 9.9
    assert memory.get("a") == b"1"
    clock.now = 10
    assert memory.get("a") is None
    assert memory.get("b") == b"2"


def test_the_least_recently_used_goes_first(memory):
    size = 10_000 // 3 - OVERHEAD_BYTES - 200
    for key in "abc":
        memory.set(key, b"x" * size, None)
    assert memory.get("a")
    memory.set("d", b"x" * size, None)
    assert [key for key in "abcd" if memory.get(key)] == ["a", "c", "d"]


def test_what_is_larger_than_all_is_not_kept_nor_its_predecessor(memory):
    memory.set("a", b"old", None)
    memory.set("other", b"stays", None)
    memory.set("a", b"x" * 10_000, None)
    assert memory.get("a") is None
    assert memory.get("other") == b"stays"


def test_add_is_refused_until_the_end_of_the_first(memory, clock):
    assert memory.add("a", 1, 10)
    assert not memory.add("a", 2, 10)
    clock.now = 10
    assert memory.add("a", 3, 10)


def test_a_counter_keeps_its_end(memory, clock):
    memory.add("a", 1, 10)
    clock.now = 9
    assert memory.incr("a", 2) == 3
    clock.now = 10
    assert memory.incr("a", 1) is None


def test_only_numbers_count(memory):
    memory.set("a", b"1", None)
    assert memory.incr("a", 1) is None
    assert memory.get("a") == b"1"


def test_touch_gives_a_new_end(memory, clock):
    memory.set("a", b"1", 1)
    assert memory.touch("a", 20)
    clock.now = 19
    assert memory.get("a") == b"1"
    assert not memory.touch("b", 20)


def test_fifty_threads_count_to_fifty(memory):
    memory.add("a", 0, None)
    together = threading.Barrier(50)

    def count() -> None:
        together.wait()
        memory.incr("a", 1)

    threads = [threading.Thread(target=count) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.get("a") == 50


steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "add", "incr", "delete", "get", "later"]),
        st.sampled_from("abcdefgh"),
        st.one_of(st.binary(max_size=3_000), st.integers()),
    ),
    max_size=60,
)


@given(steps)
def test_it_never_holds_more_than_its_bytes_and_knows_how_many(steps):
    clock = Clock()
    memory = Memory(5_000, clock)
    for step, key, value in steps:
        match step:
            case "set":
                memory.set(key, value, 5)
            case "add":
                memory.add(key, value, None)
            case "incr":
                memory.incr(key, 1)
            case "delete":
                memory.delete(key)
            case "get":
                memory.get(key)
            case "later":
                clock.now += 1
        assert memory.bytes <= 5_000
        assert memory.bytes == sum(entry.size for entry in memory._entries.values())
