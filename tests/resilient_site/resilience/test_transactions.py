"""Transactions are retried after a conflict with another writer, and not for ever."""

import sqlite3

import pytest
import stamina
from django.db import IntegrityError, OperationalError, connection

from items.models import Tag
from resilient_site.errors import Conflict
from resilient_site.resilience import deadlines
from resilient_site.resilience.transactions import ATTEMPTS, atomic_with_retries


@pytest.fixture
def without_waits(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


@pytest.mark.django_db
def test_write_is_not_retried_past_the_deadline(without_waits, monkeypatch):
    ran = []

    @atomic_with_retries
    def write():
        ran.append(1)
        raise IntegrityError("taken")

    # An expired deadline would end the write itself.
    monkeypatch.setattr(deadlines, "remaining", lambda: 0.0)
    with pytest.raises(Conflict):
        write()
    assert ran == [1]


@pytest.mark.django_db
def test_lost_write_is_retried_and_a_conflict_in_the_end(without_waits):
    ran = []

    @atomic_with_retries
    def write():
        ran.append(1)
        raise IntegrityError("taken")

    with pytest.raises(Conflict):
        write()
    assert len(ran) == ATTEMPTS


@pytest.mark.django_db
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


@pytest.mark.django_db
def test_write_is_not_retried_when_the_database_fails(without_waits):
    ran = []

    @atomic_with_retries
    def write():
        ran.append(1)
        raise OperationalError("the connection is closed")

    with pytest.raises(OperationalError):
        write()
    assert ran == [1]


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
