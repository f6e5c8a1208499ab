"""Heartbeat of the database: a thread that finds out whether the server answers.

It runs the shortest query again and again on a connection of its own. Without an answer
within `TIMEOUT_S` it opens the circuit breaker: requests that wait for the server end
with 503 or a stale response, and new ones do not ask it. The first answer closes the
breaker. What is not handled: a server that answers this query but no other.
"""

import threading
import time
from typing import Any

import psycopg
from django.db import connections

from resilient_site.postgres.connection import CancellableConnection, WaitCancelled
from resilient_site.resilience import breakers, deadlines

PERIOD_S = 0.2
# More than a busy server needs for this query.
TIMEOUT_S = 0.5
# "Too many clients": those that are connected are served.
TOO_MANY_CONNECTIONS = "53300"


class Heartbeat:
    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self.lost_at = 0.0  # of the monotonic clock

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            self._stopping.wait(PERIOD_S)
        self._close()

    def _beat(self) -> None:
        had_connection = self._connection is not None
        try:
            self._query()
        except psycopg.Error as error:
            self._close()
            if had_connection:
                self.lost_at = time.monotonic()
            if had_connection and not isinstance(error, WaitCancelled):
                return self._beat()  # the server may have restarted
            if error.sqlstate != TOO_MANY_CONNECTIONS:
                breakers.database.trip(error)
        else:
            breakers.database.reset()

    def _query(self) -> None:
        with deadlines.within(TIMEOUT_S):
            if self._connection is None:
                params = connections["default"].get_connection_params()
                params |= {"autocommit": True}
                self._connection = CancellableConnection.connect(**params)
            self._connection.execute("SELECT 1")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


heartbeat = Heartbeat()
