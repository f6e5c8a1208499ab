"""The database is away: readers are told what is known, writers the truth."""

import time
from collections import Counter

import pytest

from tests.faults.conftest import Load, Stack
from tests.private_server import wait_for

FAULT_S = 3.0


def warm(load: Load) -> None:
    """Let every reader read everything, in both web processes."""
    wait_for(lambda: len(load.reads) > 600 and len(load.writes) > 10)


@pytest.mark.parametrize("fault", ["pause", "kill", "stop"])
def test_the_database_is_away_for_a_while(stack: Stack, load: Load, fault: str) -> None:
    load.start()
    warm(load)
    begin = time.monotonic()
    getattr(stack.postgres, fault)()
    load._ending.wait(FAULT_S)
    end = time.monotonic()
    stack.postgres.resume() if fault == "pause" else stack.postgres.start()
    back = time.monotonic()
    load._ending.wait(5)
    healed = time.monotonic()
    load._ending.wait(1)
    load.end()

    reads = load.reads_between(begin, end)
    assert Counter(status for _, status, _ in reads) == {200: len(reads)}
    slow = sorted(took for took, _, _ in reads)
    print(
        "reads", len(reads), slow[-5:], Counter(how.split(";")[1] for *_, how in reads)
    )
    writes = load.writes_between(begin, end)
    print("writes", Counter(s for _, s in writes), max(took for took, _ in writes))
    assert max(took for took, _ in writes) < 1.2
    after = load.writes_between(healed, healed + 10)
    print("after", Counter(s for _, s in after))
    assert {status for _, status in after} == {200}
    first = next(d for b, d, s in load.writes if b > back and s == 200)
    print("first write after", first - back)
    assert not load.wrong
    for path, (version, _) in load.acknowledged.items():
        item = stack.site.get(path, **stack.signed_in).json()
        assert item["version"] >= version
