"""Of many only the latest are noted."""

from concurrent.futures import ThreadPoolExecutor

from resilient_site.resilience.bounded_dict import Latest, all_latest


def test_what_was_set_longest_ago_goes_first():
    latest = Latest[str, int](2, "letters")
    for key in ("a", "b", "a", "c"):
        latest[key] = len(latest)
    assert list(latest) == ["a", "c"]
    assert latest.pop("a", None) is not None
    latest["d"] = 0
    assert list(latest) == ["c", "d"]


def test_what_a_process_holds_can_be_looked_at():
    letters = Latest[str, int](2, "letters")
    assert all_latest["letters"] is letters
    del letters
    assert "letters" not in all_latest


def test_threads_may_set_what_others_push_out():
    latest = Latest[int, int](3, "numbers")

    def set_many(first: int) -> None:
        for n in range(20_000):
            latest[(first + n) % 7] = n

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(set_many, first) for first in range(4)]:
            done.result()
    latest[8] = 0
    assert 1 <= len(latest) <= 4
