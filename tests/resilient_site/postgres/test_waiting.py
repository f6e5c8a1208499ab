"""A connection is waited for no longer than there is time."""

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

from resilient_site.postgres.connection import GivenUp, PatientConnection
from resilient_site.resilience import deadlines
from tests.private_server import BUSY_S

pytestmark = [
    pytest.mark.once,
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="of PostgreSQL"),
]


class Names:
    """The resolver of the system, as far as one name is concerned."""

    def __init__(self) -> None:
        # Of each test its own: what one of them has found another one does not know.
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
    return PatientConnection.connect(**options)


def address_of_the_server() -> list[Any]:
    params = connection.get_connection_params()
    return socket.getaddrinfo(params["host"], params["port"], type=socket.SOCK_STREAM)


def test_a_name_that_is_not_resolved_is_waited_for_as_long_as_there_is_time(names):
    began = time.monotonic()
    with deadlines.within(0.2), pytest.raises(GivenUp):
        connect(names)
    assert 0.2 <= time.monotonic() - began < 0.2 + BUSY_S


def test_while_no_name_is_resolved_what_was_known_is_used(names):
    names.found = [*address_of_the_server() * 2]
    names.answers.set()
    with connect(names) as first:
        assert first.info.host == names.host
    names.answers.clear()
    with connect(names) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_a_name_that_nobody_knows_is_an_error_of_the_database(names):
    names.found = socket.gaierror(socket.EAI_NONAME, "not known")
    names.answers.set()
    with pytest.raises(psycopg.OperationalError, match=names.host):
        connect(names)


def test_where_a_name_leads_elsewhere_the_next_connection_goes_there(names):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    names.found = socket.getaddrinfo("127.0.0.2", port, type=socket.SOCK_STREAM)
    names.answers.set()
    with pytest.raises(psycopg.OperationalError):
        connect(names)
    names.found = address_of_the_server()
    connect(names).close()


def test_autocommit_is_switched_between_transactions_alone():
    params = connection.get_connection_params()
    with PatientConnection.connect(**params, autocommit=True) as database:
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
