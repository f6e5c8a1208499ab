"""Cancellable connections to PostgreSQL."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection
from psycopg.pq import TransactionStatus

from resilient_site.postgres.connection import CancellableConnection, WaitCancelled
from resilient_site.resilience import deadlines

pytestmark = [
    pytest.mark.once,
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL"),
]


class Names:
    """The system's resolver, with one name under the control of the test."""

    def __init__(self) -> None:
        # A name for each test, as what was found is remembered.
        self.host = f"database-{uuid4()}.example"
        self.answers = threading.Event()
        self.found: list[Any] | OSError = []
        self._real = socket.getaddrinfo

    def look_up(self, host: str, *args: Any, **options: Any) -> list[Any]:
        if host != self.host:
            return self._real(host, *args, **options)
        assert self.answers.wait(20)
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


@pytest.fixture
def names(monkeypatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.answers.set()


def connect(names: Names) -> psycopg.Connection[Any]:
    to = {"host": names.host, "autocommit": True}
    options = connection.get_connection_params() | to
    return CancellableConnection.connect(**options)


def address_of_the_server() -> list[Any]:
    params = connection.get_connection_params()
    return socket.getaddrinfo(params["host"], params["port"], type=socket.SOCK_STREAM)


def test_name_resolution_ends_at_the_deadline(names):
    began = time.monotonic()
    with deadlines.within(0.2), pytest.raises(WaitCancelled):
        connect(names)
    assert time.monotonic() - began >= 0.2


def test_last_address_is_used_while_the_resolver_hangs(names):
    names.found = [*address_of_the_server() * 2]
    names.answers.set()
    with connect(names) as first:
        assert first.info.host == names.host
    names.answers.clear()
    with connect(names) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_unknown_name_is_an_operational_error(names):
    names.found = socket.gaierror(socket.EAI_NONAME, "not known")
    names.answers.set()
    with pytest.raises(psycopg.OperationalError, match=names.host):
        connect(names)


def test_autocommit_is_switched_between_transactions_only():
    params = connection.get_connection_params()
    with CancellableConnection.connect(**params, autocommit=True) as database:
        assert database.autocommit
        database.autocommit = False
        database.execute("SELECT 1")
        with pytest.raises(psycopg.ProgrammingError, match="autocommit"):
            database.autocommit = True
        database.rollback()
        database.autocommit = True
        assert database.info.transaction_status == TransactionStatus.IDLE
        database.execute("SELECT 1")
        assert database.info.transaction_status == TransactionStatus.IDLE
    with pytest.raises(psycopg.OperationalError):
        database.autocommit = False
