"""Whether the server answers: found out beside the requests, not at their cost.

A thread asks it the shortest question, again and again, on a connection of its own.
When no answer comes in time it opens the breaker: every request that waits for the
server is told so, and those that come ask nothing any more. As soon as an answer comes
it closes the breaker, and all goes on.
"""

import threading
from typing import Any

import psycopg
from django.db import connections

from resilient_site.postgres.connection import GivenUp, PatientConnection
from resilient_site.resilience import breakers, deadlines

PERIOD_S = 0.2
# Longer than a server with much to do needs for nothing.
PATIENCE_S = 0.5
# "Too many clients": those that are connected are served.
FULL = "53300"


class Pulse:
    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            self._stopping.wait(PERIOD_S)
        self._close()

    def _beat(self) -> None:
        had_connection = self._connection is not None
        try:
            self._ask()
        except psycopg.Error as error:
            self._close()
            if had_connection and not isinstance(error, GivenUp):
                return self._beat()  # a restart may be over already
            if error.sqlstate != FULL:
                breakers.database.trip(error)
        else:
            breakers.database.reset()

    def _ask(self) -> None:
        with deadlines.within(PATIENCE_S):
            if self._connection is None:
                params = connections["default"].get_connection_params()
                params |= {"autocommit": True}
                self._connection = PatientConnection.connect(**params)
            self._connection.execute("SELECT 1")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


pulse = Pulse()
