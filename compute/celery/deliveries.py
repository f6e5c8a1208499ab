"""Deliveries of the broker to this worker, as a source of claims."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from uuid import UUID

from django.db import transaction

from compute import queue
from compute.pool.wakeup import Wakeup
from compute.queue import Claim


@dataclass(eq=False)
class Delivery:
    """A message; its future is whether it may be acknowledged."""

    job_id: UUID
    done: "Future[bool]" = field(default_factory=Future)


class Deliveries:
    allows_prefetch = False  # other workers do not have what is delivered here

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._lock = Lock()
        self._closed = False
        self._waiting: list[Delivery] = []
        self._running: dict[Claim, Delivery] = {}

    def deliver(self, job_id: UUID) -> bool:
        """Wait until the job has finished or cannot be claimed; False to requeue it."""
        delivery = Delivery(job_id)
        with self._lock:
            if self._closed:
                return False
            self._waiting.append(delivery)
        self._wakeup.wake()
        return delivery.done.result()

    def take(self, worker: str, limit: int, anonymous: int = 0) -> list[Claim]:
        """Claim delivered jobs, in the caller's transaction.

        The relay has published no more of anonymous clients than may run.
        """
        with self._lock:
            # The lock order of other transactions.
            waiting = sorted(self._waiting, key=lambda delivery: delivery.job_id)
        tried: dict[Delivery, list[Claim]] = {}
        claims: list[Claim] = []
        for delivery in waiting:
            if len(claims) == limit:
                break
            tried[delivery] = queue.claim(worker, 1, delivery.job_id)
            claims += tried[delivery]
        # A transaction that rolls back is repeated with the same deliveries.
        transaction.on_commit(partial(self._acknowledge, tried))
        return claims

    def on_completed(self, claim: Claim) -> None:
        delivery = self._running.pop(claim, None)
        if delivery:
            delivery.done.set_result(True)

    def close(self) -> None:
        """Requeue the messages of unfinished jobs."""
        with self._lock:
            self._closed = True
            left = [*self._waiting, *self._running.values()]
            self._waiting, self._running = [], {}
        for delivery in left:
            delivery.done.set_result(False)

    def _acknowledge(self, tried: Mapping[Delivery, list[Claim]]) -> None:
        with self._lock:
            self._waiting = [one for one in self._waiting if one not in tried]
        for delivery, claims in tried.items():
            for claim in claims:
                self._running[claim] = delivery
            if not claims:
                # It has finished, is claimed, or is not due yet, when the relay will
                # publish it again.
                delivery.done.set_result(True)
