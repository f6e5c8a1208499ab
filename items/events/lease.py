"""Lease on the publishing: one relay at a time publishes, from a stored position.

If the relay that holds the lease dies or hangs, another one takes over within
LEASE_S, and publishes again what was not recorded as published. It is a lease in the
database rather than a lock in a transaction, which would keep all changes from
becoming settled while the relay waits for the broker.
"""

import math
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
from items.changes.feed import START
from items.changes.transactions import UnusedTransaction, next_transaction
from items.events.ordering import Batch
from items.models import EventRelay, ItemChange

# A relay that has not renewed its lease for so long loses it to the next one,
LEASE_S = 10.0
# and stops publishing by itself a little earlier.
MARGIN_S = 3.0
RENEW_EVERY_S = 3.0
NEVER = -math.inf


class LeaseLost(Exception):
    """Another relay may be publishing by now."""


class Lease:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.holder = f"{socket.gethostname()[:50]}:{os.getpid()}:{uuid.uuid4().hex}"
        self.position, self.ahead = START, frozenset[int]()
        self._clock = clock
        self._renewed_at = NEVER

    def acquire(self) -> bool:
        """Acquire or renew the lease if due; return whether this relay holds it."""
        if self._clock() < self._renewed_at + RENEW_EVERY_S:
            return True
        condition = Q(holder=self.holder)
        if is_new := self._renewed_at == NEVER:
            EventRelay.objects.bulk_create([EventRelay()], ignore_conflicts=True)
            condition |= Q(held_until=None) | Q(held_until__lt=Now())
        is_held = self._update(condition)
        if is_held and is_new:
            settle_restored()
            row = EventRelay.objects.get()
            self.position, self.ahead = row.position, frozenset(row.ahead)
        return is_held

    def check(self) -> None:
        """Raise LeaseLost if this relay was delayed for too long."""
        if self._clock() >= self._renewed_at + LEASE_S - MARGIN_S:
            self.forget()
            raise LeaseLost

    def save(self, batch: Batch) -> None:
        """Record what is published. Raises LeaseLost."""
        transaction, change = batch.end
        if not self._update(
            Q(holder=self.holder),
            transaction=transaction,
            change=change,
            ahead=sorted(batch.ahead),
            trouble="",
        ):
            raise LeaseLost
        self.position, self.ahead = batch.end, batch.ahead

    def record_failure(self, text: str) -> None:
        EventRelay.objects.filter(holder=self.holder).update(trouble=text[:200])

    def forget(self) -> None:
        """Assume that the lease is lost."""
        self._renewed_at = NEVER

    def release(self) -> None:
        """Free the lease for another relay at once."""
        EventRelay.objects.filter(holder=self.holder).update(holder="", held_until=None)
        self.forget()

    def _update(self, condition: Q, **changes: object) -> bool:
        """Renew the lease, if `condition` is true; return whether it is held."""
        began = self._clock()
        row = EventRelay.objects.filter(condition, pk=EventRelay.ONLY)
        until = Now() + timedelta(seconds=LEASE_S)
        is_held = bool(row.update(holder=self.holder, held_until=until, **changes))
        self._renewed_at = began if is_held else NEVER
        return is_held


def settle_restored() -> None:
    """Move the changes of a restored dump before all that this cluster will write.

    What was not published when the dump was made is published; some of what was may
    be published again.
    """
    with transaction.atomic():
        row = EventRelay.objects.select_for_update().first() or EventRelay()
        unused = next_transaction()
        foreign = ItemChange.objects.filter(transaction__gte=UnusedTransaction())
        if unused is None or (row.transaction < unused and not foreign.exists()):
            return
        left = ItemChange.objects.filter(feed.is_after(row.position))
        first = left.aggregate(first=Min("id"))["first"]
        foreign.update(transaction=0)
        row.transaction, row.change = feed.end() if first is None else (0, first - 1)
        row.ahead = []
        row.save()
