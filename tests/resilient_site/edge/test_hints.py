"""What may be on the disk: everything that is, and little that is not."""

from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge.cache import bloom_filter as module
from resilient_site.edge.cache.bloom_filter import Hints


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_until_the_disk_was_read_everything_may_be_there():
    hints = Hints()
    assert hints.may_have("a")
    hints.note_all([])
    assert not hints.may_have("a")


@given(st.sets(st.text(), max_size=50))
def test_what_was_added_is_always_found(keys):
    hints = Hints()
    hints.note_all([(key, 1.0) for key in keys])
    hints.add("another")
    assert all(map(hints.may_have, {*keys, "another"}))


def test_little_is_found_that_was_not_added():
    hints = Hints()
    hints.note_all([(f"there {n}", float(n)) for n in range(10_000)])
    assert hints.stored_at == 9_999
    assert sum(hints.may_have(f"not there {n}") for n in range(10_000)) < 500


def test_the_disk_is_read_now_and_then():
    clock = Clock()
    hints = Hints(clock)
    assert hints.is_to_be_read()
    assert not hints.is_to_be_read()
    clock.now += module.CURRENT_S
    assert hints.is_to_be_read()


def test_what_is_too_full_is_begun_anew(monkeypatch):
    monkeypatch.setattr(module, "FULL_SHARE", 2 / module.SLOTS)
    clock = Clock()
    hints = Hints(clock)
    hints.is_to_be_read()
    hints.note_all([("a", 1.0), ("b", 2.0), ("c", 3.0)])
    assert not hints.may_have("d")
    clock.now += module.CURRENT_S
    assert hints.is_to_be_read()
    assert hints.stored_at == 0
    assert hints.may_have("d")  # for all that is known now
