"""Waiting for work: what makes a supervisor look at the database.

On PostgreSQL a submission is heard of at once (LISTEN). SQLite keeps a number that
changes with every commit of another process, which costs microseconds to read.
"""

import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import psycopg
from django.db import DatabaseError, connection

from compute.queue import CHANNEL

logger = logging.getLogger(__name__)

# Without a wake-up the queue is looked at so often: for jobs whose time comes.
LOOK_EVERY_S = 0.5
SQLITE_LOOK_EVERY_S = 0.05
RECONNECT_AFTER_S = 2.0


class Wakeup:
    """Waits for pipes, signals and news from the database, whatever comes first."""

    def __init__(self) -> None:
        self._listener: psycopg.Connection[Any] | None = None
        self._connect_at = 0.0
        self._version: int | None = None
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """Wake the waiting thread, from any other or from a signal handler."""
        with suppress(BlockingIOError):
            os.write(self._writer, b"!")

    def wait(self, waitables: Sequence[Any], timeout: float) -> bool:
        """Wait for at most `timeout` seconds; tell whether there may be new jobs."""
        everything: list[Any] = [*waitables, self._reader]
        if connection.vendor == "sqlite":
            timeout = min(timeout, SQLITE_LOOK_EVERY_S)
        elif self._listen():
            everything.append(self._listener)
        ready: list[Any] = wait(everything, timeout)
        if rung := self._reader in ready:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)
        if connection.vendor == "sqlite":
            return self._changed() or rung
        return (self._listener in ready and self._heard()) or rung

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
            listener = psycopg.connect(
                **connection.get_connection_params(), autocommit=True
            )
            listener.execute(f"LISTEN {CHANNEL}")
        except (psycopg.Error, OSError):
            return False
        self._listener = listener
        self.ring()  # what came in the meantime has not been heard of
        return True

    def _heard(self) -> bool:
        try:
            for _ in self._listener.notifies(timeout=0):  # type: ignore[union-attr]
                pass
        except psycopg.Error:
            self._listener = None
        return True

    def _changed(self) -> bool:
        try:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA data_version")
                version = cursor.fetchone()[0]
        except DatabaseError:
            return False
        changed, self._version = bool(version != self._version), version
        return changed


def on_signals(wakeup: Wakeup, handle: Any) -> None:
    """Call `handle` for SIGTERM and SIGINT, and wake who waits."""

    def handler(number: int, frame: object) -> None:
        handle()
        wakeup.ring()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
