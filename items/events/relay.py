"""Relay: publishes every change to the broker, in order, at least once.

While the broker is unavailable, changes wait in the database. What was published but
not recorded, because the relay was killed in between, is published again: the other
order would lose it. A change on this machine is seen at once, one from another machine
at the next poll: NOTIFY of PostgreSQL would make all writers wait for each other.
"""

import logging
import time
from contextlib import suppress

from django.db import DatabaseError, InterfaceError, connection

from items.events.lease import Lease, LeaseLost
from items.events.ordering import Batch, next_batch
from items.events.publisher import ERRORS, Publisher
from resilient_site.edge.cache.invalidation import CHANGES, invalidations, slot_of
from resilient_site.observability.metrics import counter
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State, describe

logger = logging.getLogger(__name__)

EVENTS_PUBLISHED = counter("events_published", "Changes published to the broker.")
BATCH = 500
LOOK_S = 0.05
READ_EVERY_S = 0.2
RETRY_S = 1.0


class Relay:
    def __init__(self, url: str) -> None:
        self._publisher, self._lease = Publisher(url), Lease()
        self._stopping = False
        self._size = BATCH
        self._failures, self._failing = 0, ""

    def run(self) -> None:
        """Publish until `stop` is called."""
        while not self._stopping:
            seen = _last_change()
            pause_s = self.publish_pending()
            self._pause(pause_s or READ_EVERY_S, None if pause_s else seen)
        self._publisher.close()
        with suppress(DatabaseError, InterfaceError):  # then others wait for its end
            self._lease.release()
        connection.close()

    def stop(self) -> None:
        self._stopping = True

    def publish_pending(self) -> float:
        """Publish all there is; return how long to pause in any case."""
        if breakers.broker.forced is State.OPEN:
            return READ_EVERY_S
        try:
            if not self._lease.acquire():
                return READ_EVERY_S
            while not self._stopping and (batch := self._next_batch()):
                self._publisher.publish(batch, self._lease.check)
                self._lease.save(batch)
                EVENTS_PUBLISHED.inc(len(batch.changes))
                self._record_success()
        except (DatabaseError, InterfaceError) as error:
            connection.close()
            self._lease.forget()
            return self._record_failure("database", error)
        except (LeaseLost, *ERRORS) as error:
            # Whether the last events have arrived is unknown.
            self._publisher.close()
            # A slow broker gets less at a time.
            self._size = max(self._size // 2, 1)
            if isinstance(error, LeaseLost):
                return self._record_failure("lease", error)
            breakers.broker.trip(error)
            return self._record_failure("broker", error)
        return 0

    def _next_batch(self) -> Batch | None:
        return next_batch(self._lease.position, self._lease.ahead, self._size)

    def _record_success(self) -> None:
        if self._failing:
            logger.warning("Events are published again.")
        self._failures, self._failing = 0, ""
        self._size = min(self._size * 2, BATCH)
        breakers.broker.reset()

    def _record_failure(self, what: str, error: Exception) -> float:
        """Return the pause before the next attempt: short at first."""
        self._failures += 1
        if self._failures == 1:
            return LOOK_S
        if what != self._failing:
            logger.error("Events are not published: the %s failed: %s", what, error)
        self._failing = what
        if what == "broker":
            with suppress(DatabaseError, InterfaceError):  # the next query shows it
                self._lease.record_failure(describe(error))
        return RETRY_S

    def _pause(self, seconds: float, seen: int | None = None) -> None:
        """Wait, until `stop` or a change after `seen` at most."""
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            if seen is not None and _last_change() != seen:
                return
            time.sleep(LOOK_S)


def _last_change() -> int:
    return invalidations.slots[slot_of(CHANGES)]
