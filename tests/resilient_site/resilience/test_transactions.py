"""Transactions are retried after a conflict with another writer, and not for ever."""

import sqlite3
from types import SimpleNamespace

import pytest
import stamina
from django.db import IntegrityError, OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from items.models import Tag
from resilient_site.errors import Conflict
from resilient_site.postgres.connection import ConnectionLost
from resilient_site.resilience import transactions
from resilient_site.resilience.transactions import (
    ATTEMPTS,
    Contended,
    SequenceBehind,
    atomic_with_retries,
)


@pytest.fixture
def without_waits(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def locked() -> OperationalError:
    error = OperationalError("lock timeout")
    error.__cause__ = LockNotAvailable()
    return error


@pytest.mark.django_db
@pytest.mark.once
@pytest.mark.parametrize(
    ("error", "is_expired", "raised", "attempts"),
    [
        (IntegrityError("taken"), False, Conflict, ATTEMPTS),
        (IntegrityError("taken"), True, Conflict, 1),
        (OperationalError("the connection is closed"), False, OperationalError, 1),
        (locked(), False, OperationalError, 1),
    ],
    ids=["conflict", "past the deadline", "database fails", "waited for a lock"],
)
def test_write_is_retried_after_a_conflict_within_its_deadline(
    without_waits, monkeypatch, error, is_expired, raised, attempts
):
    ran = []

    @atomic_with_retries
    def write():
        ran.append(1)
        raise error

    # A deadline that has passed would end the write itself.
    deadline = SimpleNamespace(is_expired=lambda: is_expired, lock_wait_s=float)
    monkeypatch.setattr(transactions, "deadlines", deadline)
    with pytest.raises(raised):
        write()
    assert len(ran) == attempts


class Reason(Exception):
    """What the driver says of an error."""

    def __init__(self, sqlstate: str = "", table_name: str = "") -> None:
        self.sqlstate = sqlstate
        name = f"{table_name}_pkey" if table_name else ""
        self.diag = SimpleNamespace(table_name=table_name, constraint_name=name)


# The error with its reason; attempts alone, and in another transaction; what is raised.
ERRORS = {
    "id that is taken": (IntegrityError, Reason("", "items_item"), 6, 6, Contended),
    "generated id": (
        IntegrityError, Reason("", "items_itemchange"), 1, 1, SequenceBehind,
    ),
    "generated id of a pair": (
        IntegrityError, Reason("", "auth_user_groups"), 1, 1, SequenceBehind,
    ),
    "deadlock": (OperationalError, Reason("40P01"), 6, 6, Contended),
    "serialization": (OperationalError, Reason("40001"), 6, 1, Contended),
    "lost connection": (ConnectionLost, Reason(), 2, 1, ConnectionLost),
    "lock": (OperationalError, LockNotAvailable(), 6, 1, OperationalError),
    "disk full": (OperationalError, Reason("53100"), 1, 1, OperationalError),
}  # fmt: skip


@pytest.mark.django_db(transaction=True)
@pytest.mark.once
@pytest.mark.parametrize("name", ERRORS)
def test_write_is_retried_where_another_attempt_may_succeed(without_waits, name):
    kind, reason, alone, inside, raised = ERRORS[name]
    ran = []

    @atomic_with_retries
    def write():
        ran.append(name)
        raise kind(name) from reason

    with pytest.raises(raised):
        write()
    assert len(ran) == alone
    ran.clear()
    # One that needs a new transaction is left to what has begun the present one.
    with pytest.raises(raised if inside == alone else kind), transaction.atomic():
        write()
    assert len(ran) == inside


@pytest.mark.django_db
@pytest.mark.once
def test_write_inside_another_is_retried_with_that(without_waits):
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


@pytest.mark.django_db(transaction=True)
def test_write_that_sqlite_could_not_begin_is_retried():
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
