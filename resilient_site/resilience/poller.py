"""Poller: one thread that polls the database while it has subscribers.

What fails: the database; the thread polls less often then, and logs it once. The
subscribers see no change meanwhile. Not handled: a query that hangs, which holds up
the thread until it is given up.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

from django.db import Error, connection

logger = logging.getLogger(__name__)

BACK_OFF_MAX_S = 2.0
# The thread and its connection are kept for so long after the last subscriber.
LINGER_S = 10.0


class Poller[Subscriber]:
    """Polls every `every_s` seconds, and less often while that fails.

    `begin` is called for each new thread, and returns the function that polls. `what`
    names what is followed, for the log: in the plural, as in "Jobs".
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        what: str,
        every_s: float,
        begin: Callable[[], Callable[[], None]],
    ) -> None:
        self.loop, self.what, self.every_s, self.begin = loop, what, every_s, begin
        self._subscribers: set[Subscriber] = set()
        self._has_subscribers = Event()
        self._lock = Lock()
        self._thread: Thread | None = None

    @contextmanager
    def subscribed(self, subscriber: Subscriber) -> Iterator[Subscriber]:
        """Poll as long as the block lasts."""
        try:
            with self._lock:
                self._subscribers.add(subscriber)
                self._has_subscribers.set()
                if self._thread is None:
                    args = (self.begin(),)
                    thread = Thread(target=self._run, args=args, daemon=True)
                    thread.name = f"{self.what.lower()}-poller"
                    thread.start()
                    self._thread = thread
            yield subscriber
        finally:
            with self._lock:
                self._subscribers.remove(subscriber)
                if not self._subscribers:
                    self._has_subscribers.clear()

    def subscribers(self) -> set[Subscriber]:
        """Return the present subscribers."""
        with self._lock:
            return self._subscribers.copy()

    # --- in the thread

    def _run(self, poll: Callable[[], None]) -> None:
        delay_s = self.every_s
        try:
            while self._goes_on():
                try:
                    poll()
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
        if self._has_subscribers.wait(LINGER_S):
            return True
        with self._lock:
            if not self._subscribers:
                self._thread = None
            return self._thread is not None

    def _log_outage(self, error: Exception) -> None:
        if isinstance(error, Error):
            failure = "%s cannot be followed, the database failed: %s"
            logger.error(failure, self.what, error)
        else:
            logger.error("%s cannot be followed.", self.what, exc_info=error)
