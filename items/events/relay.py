"""Publishing every change, in order, at least once.

While the broker is away changes wait in the database. What is published but not noted,
because the relay was killed in between, is published again: the other order would lose
it. A change on this machine is seen at once, one made elsewhere at the next look: to be
notified by the database would make all who write wait for each other (NOTIFY).
"""

import logging
import random
import time

from django.db import DatabaseError, InterfaceError, connection

from items.events.lease import Lost, Place
from items.events.ordering import next_batch
from items.events.publisher import ERRORS, Publisher
from resilient_site.edge.cache.invalidation import CHANGES, generations, slot_of
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State, describe

logger = logging.getLogger(__name__)

BATCH = 500
LOOK_S = 0.05
READ_EVERY_S = 0.2
RETRY_MAX_S = 2.0


class Relay:
    def __init__(self, url: str) -> None:
        self._publisher, self._place = Publisher(url), Place()
        self._stopping = False
        self._size = BATCH
        self._failures, self._missing = 0, ""

    def run(self) -> None:
        """Publish until `stop` is called."""
        while not self._stopping:
            seen = _last_change()
            if pause_s := self.turn():
                self._pause(pause_s)
            else:
                self._pause(READ_EVERY_S, seen)
        self._publisher.close()
        try:
            self._place.release()
        except (DatabaseError, InterfaceError):
            logger.warning("Another relay goes on when the lease has run out.")
        connection.close()

    def stop(self) -> None:
        self._stopping = True

    def turn(self) -> float:
        """Publish what there is; return how long to wait whatever happens."""
        if breakers.broker.snapshot().override is State.OPEN:
            return READ_EVERY_S
        try:
            if not self._place.hold():
                return READ_EVERY_S
            while not self._stopping and self._publish_next():
                pass
        except (DatabaseError, InterfaceError) as error:
            connection.close()
            self._place.forget()
            return self._failed("database", error)
        except Lost as error:
            self._start_over()
            return self._failed("lease", error)
        except ERRORS as error:
            self._start_over()
            breakers.broker.trip(error)
            return self._failed("broker", error)
        return 0

    def _publish_next(self) -> bool:
        """Publish a batch; return False if there is none."""
        place = self._place
        batch = next_batch(place.position, place.ahead, self._size)
        if batch is None:
            return False
        self._publisher.publish(batch.changes, place.check)
        place.save(batch)
        self._succeeded()
        return True

    def _start_over(self) -> None:
        """Whether the last events have arrived is not known."""
        self._publisher.close()
        # Who is slow gets less at a time.
        self._size = max(self._size // 2, 1)

    def _succeeded(self) -> None:
        if self._missing:
            logger.warning("Events are published again.")
        self._failures, self._missing = 0, ""
        self._size = min(self._size * 2, BATCH)
        breakers.broker.reset()

    def _failed(self, what: str, error: Exception) -> float:
        """Wait before the next try, but not before the first: a link may go stale."""
        self._failures += 1
        if self._failures == 1:
            return LOOK_S
        if what != self._missing:
            logger.error("Events are not published, the %s failed: %s", what, error)
        self._missing = what
        if what == "broker":
            self._tell(error)
        longest = min(0.2 * 2.0 ** min(self._failures, 9), RETRY_MAX_S)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing to guess

    def _tell(self, error: Exception) -> None:
        try:
            self._place.note_trouble(describe(error))
        except (DatabaseError, InterfaceError):
            connection.close()

    def _pause(self, seconds: float, seen: int | None = None) -> None:
        """Wait, but not through a stop, nor a change after `seen`."""
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            if seen is not None and _last_change() != seen:
                return
            time.sleep(LOOK_S)


def _last_change() -> int:
    return generations.slots[slot_of(CHANGES)]
