"""The place up to which the log is published, held by one relay at a time.

By a lease in the database, not by a lock in a transaction: that would keep all changes
from becoming settled while the broker is talked to.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from django.db import transaction
from django.db.models import Min, Q
from django.db.models.functions import Now

from items.changes import feed
from items.changes.feed import START, Position
from items.changes.transactions import next_transaction
from items.events.models import TROUBLE_MAX, EventRelay
from items.events.ordering import Batch
from items.models import ItemChange

# A relay that is silent for so long has lost the place to whoever asks first,
LEASE_S = 10.0
# and stops publishing a little earlier by itself.
MARGIN_S = 3.0
RENEW_EVERY_S = 3.0


class Lost(Exception):
    """Another relay may be publishing by now."""


class Place:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.holder = f"{socket.gethostname()[:50]}:{os.getpid()}:{uuid.uuid4().hex}"
        self.position, self.ahead = START, frozenset[int]()
        self._clock = clock
        self._renewed_at: float | None = None

    def hold(self) -> bool:
        """Tell whether it is held by this relay, after renewing that if need be."""
        began = self._clock()
        if self._renewed_at is not None and began < self._renewed_at + RENEW_EVERY_S:
            return True
        condition = Q(holder=self.holder)
        if is_new := self._renewed_at is None:
            EventRelay.objects.bulk_create([EventRelay()], ignore_conflicts=True)
            condition |= Q(held_until=None) | Q(held_until__lt=Now())
        self._renewed_at = began if self._update(condition) else None
        if self._renewed_at is not None and is_new:
            self._read()
        return self._renewed_at is not None

    def check(self) -> None:
        """Raise Lost if this relay was held up for so long that it may be."""
        if self._renewed_at is None or (
            self._clock() >= self._renewed_at + LEASE_S - MARGIN_S
        ):
            self.forget()
            raise Lost

    def save(self, batch: Batch) -> None:
        """Go on behind what is published. Raises Lost."""
        began = self._clock()
        if not self._update(
            Q(holder=self.holder),
            transaction=batch.end[0],
            change=batch.end[1],
            ahead=sorted(batch.ahead),
            trouble="",
        ):
            self.forget()
            raise Lost
        self._renewed_at = began
        self.position, self.ahead = batch.end, batch.ahead

    def note_trouble(self, text: str) -> None:
        mine = EventRelay.objects.filter(holder=self.holder)
        mine.update(trouble=text[:TROUBLE_MAX])

    def forget(self) -> None:
        """Do not take it for held any more."""
        self._renewed_at = None

    def release(self) -> None:
        """Let another relay have it at once."""
        EventRelay.objects.filter(holder=self.holder).update(holder="", held_until=None)
        self.forget()

    def _update(self, condition: Q, **changes: object) -> bool:
        row = EventRelay.objects.filter(condition, pk=EventRelay.ONLY)
        until = Now() + timedelta(seconds=LEASE_S)
        return bool(row.update(holder=self.holder, held_until=until, **changes))

    def _read(self) -> None:
        row = EventRelay.objects.get()
        unused = next_transaction()
        if unused is not None and row.transaction >= unused:
            settle_restored()
            row.refresh_from_db()
        self.position, self.ahead = row.position, frozenset(row.ahead)


def settle_restored() -> None:
    """Put the changes of a restored dump before all that this cluster will write.

    What was not published yet when the dump was made stays behind the place; some of
    what was may be published once more.
    """
    with transaction.atomic():
        row = EventRelay.objects.select_for_update().first() or EventRelay()
        elsewhere = ItemChange.objects.from_elsewhere()
        unused = next_transaction()
        if unused is None or not (row.transaction >= unused or elsewhere.exists()):
            return
        place = _place_after_restoring(row.position)
        elsewhere.update(transaction=0)
        row.transaction, row.change = place or feed.end()
        row.ahead = []
        row.save()


def _place_after_restoring(position: Position) -> Position | None:
    """Return the place before all that is not published; None: that is everything."""
    left = ItemChange.objects.filter(feed.behind(position))
    first = left.aggregate(first=Min("id"))["first"]
    return None if first is None else (0, first - 1)
