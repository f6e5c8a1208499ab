"""Wakeup of a supervisor or relay when there may be new jobs.

PostgreSQL notifies it of each submission (LISTEN). SQLite has a number that changes
with every commit of another process, and takes microseconds to read. If the
notification is lost with its connection, the caller's own polling finds the job half a
second later.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import psycopg
from django.db import DatabaseError, connection

from compute.queue import CHANNEL
from resilient_site.postgres.connection import CancellableConnection
from resilient_site.postgres.direct import directly

logger = logging.getLogger(__name__)

SQLITE_POLL_S = 0.05
RECONNECT_AFTER_S = 2.0


class Wakeup:
    """Waits for pipes, signals and notifications of the database."""

    def __init__(self) -> None:
        self._listener: psycopg.Connection[Any] | None = None
        self._connect_at = 0.0
        self._version: int | None = None
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake(self) -> None:
        """Wake the waiting thread, from another thread or a signal handler."""
        with suppress(BlockingIOError):
            os.write(self._writer, b"!")

    def wait(self, waitables: Sequence[Any], timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether there may be new jobs."""
        sources: list[Any] = [*waitables, self._reader]
        if connection.vendor == "sqlite":
            timeout = min(timeout, SQLITE_POLL_S)
        elif self._listen():
            sources.append(self._listener)
        ready: list[Any] = wait(sources, timeout)
        if woken := self._reader in ready:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)
        if connection.vendor == "sqlite":
            return self._database_changed() or woken
        return (self._listener in ready and self._read_notifications()) or woken

    def close(self) -> None:
        if self._listener:
            self._listener.close()

    def _listen(self) -> bool:
        if self._listener is not None:
            return True
        if time.monotonic() < self._connect_at:
            return False
        self._connect_at = time.monotonic() + RECONNECT_AFTER_S
        try:
            with directly():
                params = connection.get_connection_params()
            listener = CancellableConnection.connect(**params, autocommit=True)
            listener.execute(f"LISTEN {CHANNEL}")
        except (psycopg.Error, OSError):
            return False
        self._listener = listener
        self.wake()  # earlier notifications were missed
        return True

    def _read_notifications(self) -> bool:
        try:
            for _ in self._listener.notifies(timeout=0):  # type: ignore[union-attr]
                pass
        except psycopg.Error:
            self._listener = None
        return True

    def _database_changed(self) -> bool:
        try:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA data_version")
                version = cursor.fetchone()[0]
        except DatabaseError:
            return False
        changed, self._version = bool(version != self._version), version
        return changed
