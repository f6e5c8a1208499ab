"""The bounded dictionary keeps the keys that were set last."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient_site.resilience.bounded_dict import BoundedDict

pytestmark = pytest.mark.once


def test_bounded_dict_drops_the_key_that_was_set_first():
    letters = BoundedDict[str, int](2)
    for key in ("a", "b", "a", "c"):
        letters[key] = len(letters)
    assert list(letters) == ["a", "c"]
    assert letters.pop("a", None) is not None
    letters["d"] = 0
    assert list(letters) == ["c", "d"]


def test_bounded_dict_may_be_shared_by_threads():
    letters = BoundedDict[int, int](3)

    def set_many(first: int) -> None:
        for n in range(20_000):
            letters[(first + n) % 7] = n

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(set_many, first) for first in range(4)]:
            done.result()
    letters[8] = 0
    assert 1 <= len(letters) <= 4
