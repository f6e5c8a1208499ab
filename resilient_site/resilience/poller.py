"""A thread that asks the database again and again, for as long as somebody wants it."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

from django.db import Error, connection

logger = logging.getLogger(__name__)

BACK_OFF_MAX_S = 2.0
# The thread and its connection are kept for so long after the last who wanted it.
LINGER_S = 10.0


class Poller[Who]:
    """Asks every `every_s` seconds, and less often while that fails.

    `begin` is called for each new thread, and returns what the thread does each time.
    `what` names what is followed so, for the log: in the plural, as in "Jobs".
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        what: str,
        every_s: float,
        begin: Callable[[], Callable[[], None]],
    ) -> None:
        self.loop, self.what, self.every_s, self.begin = loop, what, every_s, begin
        self._wanted_by: set[Who] = set()
        self._is_wanted = Event()
        self._lock = Lock()
        self._thread: Thread | None = None

    @contextmanager
    def wanted_by(self, who: Who) -> Iterator[Who]:
        """Have it asked as long as the block lasts."""
        try:
            with self._lock:
                self._wanted_by.add(who)
                self._is_wanted.set()
                if self._thread is None:
                    args = (self.begin(),)
                    thread = Thread(target=self._run, args=args, daemon=True)
                    thread.name = f"{self.what.lower()}-poller"
                    thread.start()
                    self._thread = thread
            yield who
        finally:
            with self._lock:
                self._wanted_by.remove(who)
                if not self._wanted_by:
                    self._is_wanted.clear()

    def everybody(self) -> set[Who]:
        """Return all who want it at this moment."""
        with self._lock:
            return self._wanted_by.copy()

    # --- in the thread

    def _run(self, ask: Callable[[], None]) -> None:
        delay_s = self.every_s
        try:
            while self._goes_on():
                try:
                    ask()
                except Exception as error:  # noqa: BLE001 - whatever it is, go on
                    if self.loop.is_closed():
                        return
                    if delay_s == self.every_s:
                        self._log_outage(error)
                    connection.close()
                    delay_s = min(delay_s * 2, BACK_OFF_MAX_S)
                else:
                    if delay_s != self.every_s:
                        logger.info("%s can be followed again.", self.what)
                    delay_s = self.every_s
                time.sleep(delay_s)
        finally:
            connection.close()

    def _goes_on(self) -> bool:
        if self._is_wanted.wait(LINGER_S):
            return True
        with self._lock:
            if not self._wanted_by:
                self._thread = None
            return self._thread is not None

    def _log_outage(self, error: Exception) -> None:
        if isinstance(error, Error):
            failure = "%s cannot be followed, the database failed: %s"
            logger.error(failure, self.what, error)
        else:
            logger.error("%s cannot be followed.", self.what, exc_info=error)
