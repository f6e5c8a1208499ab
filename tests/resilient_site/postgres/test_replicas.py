"""When a replica may be read from; tests/faults/test_replicas.py has real ones."""

from collections import deque
from typing import Any

import pytest
from django.contrib.auth.models import User

from items.models import Item
from resilient_site.edge.cache.invalidation import invalidations, now
from resilient_site.postgres import replicas
from resilient_site.postgres.heartbeat import Position, heartbeat
from resilient_site.postgres.replicas import Replica, ReplicaRouter

pytestmark = pytest.mark.once
ALIAS = "replica-1"


@pytest.fixture
def primary(monkeypatch) -> list[Position]:
    """Positions of a primary on timeline 7: of a minute ago, and of just now."""
    known = [Position(now() - 60 * 10**9, 100), Position(now() - 10**8, 200)]
    monkeypatch.setattr(heartbeat, "positions", deque(known))
    monkeypatch.setattr(heartbeat, "timeline", 7)
    return known


def asked(answer: tuple[Any, ...]) -> Replica:
    """Return a replica after that answer to its heartbeat."""
    replica = Replica(ALIAS)
    replica._ask = lambda question: answer  # type: ignore[method-assign]
    replica._query()
    return replica


def test_replica_has_what_was_committed_before_a_position_that_it_has_replayed(primary):
    earlier, latest = primary
    assert asked((True, False, 200, 7, 6)).as_of == latest.moment
    assert asked((True, False, 199, 7, 6)).as_of == earlier.moment
    assert asked((True, False, 99, 7, 6)).as_of == 0


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((False, None, 200, None, 7), "promoted"),
        ((True, True, 200, 7, 7), "paused"),
        ((True, False, 200, 6, 7), "timeline 6"),
        ((True, False, 200, None, 6), "timeline 6"),
    ],
)
def test_replica_with_a_problem_is_not_read(primary, answer, problem):
    replica = asked(answer)
    assert problem in replica.problem
    assert (replica.current_as_of(), replica.stale_as_of()) == (0, 0)


def test_replica_is_not_read_between_a_change_and_its_arrival(primary):
    replica = asked((True, False, 200, 7, 7))
    as_of = primary[-1].moment
    invalidations.record(["an-item"])
    assert (replica.current_as_of(), replica.stale_as_of()) == (0, as_of)
    later = Position(now() + 10**7, 300)
    heartbeat.positions.append(later)
    replica._query()  # it has not replayed that
    assert replica.current_as_of() == 0
    replica = asked((True, False, 300, 7, 7))
    assert replica.current_as_of() == later.moment


def test_replica_that_is_behind_is_not_read(primary, settings):
    replica = asked((True, False, 150, 7, 7))
    assert (replica.current_as_of(), replica.stale_as_of()) == (0, 0)
    settings.DATABASE_REPLICA_MAX_LAG_S = 120
    assert replica.stale_as_of() == primary[0].moment


def test_replica_is_unknown_without_positions_of_the_primary(primary, monkeypatch):
    monkeypatch.setattr(heartbeat, "timeline", 0)
    assert "not known" in asked((True, False, 200, 7, 7)).problem


@pytest.fixture
def chosen(monkeypatch):
    token = replicas._chosen.set(ALIAS)
    yield
    replicas._chosen.reset(token)


def test_router_sends_reads_of_the_catalogue_alone_to_the_chosen_replica(chosen):
    router = ReplicaRouter()
    assert router.db_for_read(Item) == ALIAS
    assert router.db_for_read(User) == "default"
    assert router.db_for_write(Item, instance=Item()) == "default"
    assert router.allow_relation(Item(), User())
    assert not router.allow_migrate(ALIAS, "items")


@pytest.mark.django_db
def test_router_keeps_what_is_in_a_transaction_on_the_primary(chosen):
    assert ReplicaRouter().db_for_read(Item) == "default"
