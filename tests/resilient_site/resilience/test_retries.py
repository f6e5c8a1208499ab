"""Retries are bounded: by attempts, a deadline, a budget, and never in each other."""

import sqlite3
import threading

import pytest
import stamina
from django.db import IntegrityError, OperationalError, connection

from items.models import Tag
from resilient_site.errors import Conflict
from resilient_site.resilience import deadlines, retries
from resilient_site.resilience.retries import RetryBudget, retrying
from resilient_site.resilience.transactions import ATTEMPTS, atomic_with_retries

pytestmark = pytest.mark.once


class Passing(Exception):
    pass


class Lasting(Exception):
    pass


@pytest.fixture
def scheduled(monkeypatch):
    """The pauses that stamina was told to make; none is made."""
    pauses = []
    stamina.instrumentation.set_on_retry_hooks(
        [lambda details: pauses.append(details.wait_for)]
    )
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    yield pauses
    stamina.instrumentation.set_on_retry_hooks(None)


def attempts_of(failures, error=Passing, **options):
    """Return how often a block ran that fails so many times, and its last error."""
    ran = 0
    options = {"budget": RetryBudget()} | options
    try:
        for attempt in retrying((Passing,), **options):
            with attempt:
                ran += 1
                if ran <= failures:
                    raise error
    except error as last:
        return ran, last
    return ran, None


def test_what_passes_is_tried_again(scheduled):
    assert attempts_of(2) == (3, None)


def test_the_last_error_gets_out(scheduled):
    ran, error = attempts_of(9)
    assert ran == 3
    assert isinstance(error, Passing)


def test_another_error_is_not_repeated(scheduled):
    ran, error = attempts_of(9, Lasting)
    assert ran == 1
    assert isinstance(error, Lasting)


def test_pauses_grow_differ_and_have_a_limit(scheduled):
    for _ in range(50):
        attempts_of(9, attempts=4, pause_s=0.1, pause_max_s=0.3)
    for number, longest in enumerate([0.1, 0.2, 0.3]):
        pauses = scheduled[number::3]
        assert max(pauses) <= longest
        assert len(set(pauses)) > len(pauses) / 2
    assert max(scheduled) > 0.2


def test_no_retry_begins_that_the_deadline_would_cut(scheduled):
    ran, error = attempts_of(9, within_s=0.0)
    assert ran == 1
    assert isinstance(error, Passing)
    with deadlines.within(0):
        assert attempts_of(9)[0] == 1


def test_the_budget_allows_a_few_and_then_a_tenth(scheduled):
    budget = RetryBudget(ratio=0.1, most=5)
    extra = sum(attempts_of(1, budget=budget)[0] - 1 for _ in range(5))
    assert extra == 5
    extra = sum(attempts_of(1, budget=budget)[0] - 1 for _ in range(100))
    assert 9 <= extra <= 11


def test_threads_spend_no_more_than_there_is():
    budget = RetryBudget(ratio=0, most=10)
    spent = []
    together = threading.Barrier(30, timeout=10)

    def spend() -> None:
        together.wait()
        spent.append(budget.spend())

    threads = [threading.Thread(target=spend) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spent.count(True) == 10


def test_of_two_loops_only_the_outer_one_repeats(scheduled):
    inner = []

    def fail_inside() -> None:
        for attempt in retrying((Passing,), attempts=5):
            with attempt:
                inner.append(1)
                raise Passing

    def repeat() -> None:
        for attempt in retrying((Passing,), attempts=3, budget=RetryBudget()):
            with attempt:
                fail_inside()

    with pytest.raises(Passing):
        repeat()
    assert len(inner) == 3
    assert not retries.is_inside()


# --- writes that lost


@pytest.mark.django_db
def test_a_lost_write_is_repeated_and_in_the_end_a_conflict(scheduled):
    ran = []

    @atomic_with_retries
    def write():
        ran.append(1)
        raise IntegrityError("taken")

    with pytest.raises(Conflict):
        write()
    assert len(ran) == ATTEMPTS


@pytest.mark.django_db
def test_a_write_within_another_leaves_the_repeat_to_it(scheduled):
    ran = []

    @atomic_with_retries
    def inner():
        ran.append("inner")
        if len(ran) < 4:
            raise IntegrityError("taken")

    @atomic_with_retries
    def outer():
        ran.append("outer")
        inner()

    outer()
    assert ran == ["outer", "inner"] * 2


@pytest.mark.django_db
def test_a_database_that_is_away_is_not_asked_again(scheduled):
    ran = []

    @atomic_with_retries
    def write():
        ran.append(1)
        raise OperationalError("the connection is closed")

    with pytest.raises(OperationalError):
        write()
    assert ran == [1]


@pytest.mark.django_db(transaction=True)
def test_a_write_that_could_not_begin_in_sqlite_begins_again():
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has no lock on the whole database")
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = []

    def give_way(details):
        refused.append(str(details.caused_by))
        other.execute("ROLLBACK")

    stamina.instrumentation.set_on_retry_hooks([give_way])
    try:
        atomic_with_retries(lambda: Tag.objects.create(name="begun"))()
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
        other.close()
        connection.close()
    assert refused == ["database is locked"]
    assert Tag.objects.filter(name="begun").exists()
