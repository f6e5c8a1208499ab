"""PostgreSQL and Redis fail under load: the responses that readers and writers get."""

import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.load import Both, Load, Sample, Stack
from tests.private_server import BUSY_S, wait_for

pytestmark = pytest.mark.faults

FAULT_S = 2.0
# A response or a rejection comes within a second, beside what this machine adds.
LATEST_S = 1.3
RECOVERY_S = 15.0


def slow_redis(stack: Stack, delay_s: float) -> None:
    stack.to_redis.delay_s = delay_s


def slow_postgres(stack: Stack, delay_s: float) -> None:
    stack.to_postgres.delay_s = delay_s


REDIS: dict[str, tuple[Callable[[Stack], object], Callable[[Stack], object]]] = {
    "hung": (lambda s: s.redis.pause(), lambda s: s.redis.resume()),
    "killed": (lambda s: s.redis.kill(), lambda s: s.redis.start()),
    "slow": (lambda s: slow_redis(s, 0.3), lambda s: slow_redis(s, 0)),
}
POSTGRES: dict[str, tuple[Callable[[Stack], object], Callable[[Stack], object]]] = {
    "hung": (lambda s: s.postgres.pause(), lambda s: s.postgres.resume()),
    "killed": (lambda s: s.postgres.kill(), lambda s: s.postgres.start()),
    "restarted": (lambda s: s.postgres.stop(), lambda s: s.postgres.start()),
}


@pytest.mark.parametrize("fault", REDIS)
def test_redis_outage_changes_no_response(stack, load, fault):
    during, after = outage(stack, load, *REDIS[fault])
    for reads, writes in (during, after):
        assert statuses(reads) == {200}
        assert statuses(writes) <= {200, 201}
        assert not stale(reads)


@pytest.mark.parametrize("fault", POSTGRES)
def test_database_outage_serves_stale_responses(stack, load, fault):
    during, after = outage(stack, load, *POSTGRES[fault])
    assert_read_only(*during)
    assert_recovered(*after)


def test_outage_of_both_serves_stale_responses(stack, load):
    def break_both(stack: Stack) -> None:
        stack.redis.pause()
        stack.postgres.pause()

    def restore_both(stack: Stack) -> None:
        stack.redis.resume()
        stack.postgres.resume()

    during, after = outage(stack, load, break_both, restore_both)
    assert_read_only(*during)
    assert_recovered(*after)


def test_slow_database_fails_no_read(stack, load):
    during, after = outage(
        stack, load, lambda s: slow_postgres(s, 0.02), lambda s: slow_postgres(s, 0)
    )
    assert statuses(during[0]) == {200}
    assert statuses(during[1]) <= {200, 201, 503}
    assert_recovered(*after)


def outage(
    stack: Stack,
    load: Load,
    begin: Callable[[Stack], object],
    end: Callable[[Stack], object],
) -> tuple[Both, Both]:
    """Return the samples during the fault, and those after it."""
    load.start()
    usual_s = min(slowest(load.reads + load.writes), BUSY_S)
    began = time.monotonic()
    begin(stack)
    load.go_on(FAULT_S)
    ended = time.monotonic()
    end(stack)
    back = time.monotonic()
    wait_for(lambda: any(w.began > back and w.status == 200 for w in load.writes))
    assert time.monotonic() - back < RECOVERY_S
    wait_for(lambda: load.reads[-1].began > back and not stale(load.reads[-50:]))
    settled = time.monotonic()
    wait_for(lambda: all(len(some) > 5 for some in load.between(settled)))
    load.end()
    load.assert_nothing_is_lost()
    during, after = load.between(began, ended), load.between(settled)
    print_statuses(during, "during")
    print_statuses(after, "after")
    assert max(slowest(some) for some in during + after) < LATEST_S + usual_s
    return during, after


def print_statuses(seen: Both, when: str) -> None:
    for kind, some in zip(("reads", "writes"), seen, strict=True):
        print(when, kind, Counter(one.status for one in some), f"{slowest(some):.3f} s")


def assert_read_only(reads: list[Sample], writes: list[Sample]) -> None:
    assert statuses(reads) == {200}
    assert stale(reads)
    assert statuses(writes) <= {200, 201, 503}
    assert 503 in statuses(writes)


def assert_recovered(reads: list[Sample], writes: list[Sample]) -> None:
    assert statuses(reads) == {200}
    assert statuses(writes) == {200}


def stale(reads: list[Sample]) -> list[Sample]:
    return [read for read in reads if "origin-failed" in read.how]


def statuses(seen: list[Sample]) -> set[int]:
    return {one.status for one in seen}


def slowest(seen: list[Sample]) -> float:
    return max(one.took_s for one in seen)
