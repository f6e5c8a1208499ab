"""The jobs that a broker has delivered to this worker, as a source of claims."""

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
    """One message; its future says whether it can be dropped."""

    job_id: UUID
    done: "Future[bool]" = field(default_factory=Future)


class Deliveries:
    is_deep = False  # what is delivered here was not delivered to others

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._lock = Lock()
        self._closed = False
        self._waiting: list[Delivery] = []
        self._running: dict[Claim, Delivery] = {}

    def deliver(self, job_id: UUID) -> bool:
        """Wait until the job has ended or cannot be had; False if others should try."""
        delivery = Delivery(job_id)
        with self._lock:
            if self._closed:
                return False
            self._waiting.append(delivery)
        self._wakeup.ring()
        return delivery.done.result()

    def take(self, worker: str, limit: int) -> list[Claim]:
        """Claim what was delivered, in the caller's transaction."""
        with self._lock:
            # In the order in which others lock jobs.
            waiting = sorted(self._waiting, key=lambda delivery: delivery.job_id)
        tried: dict[Delivery, list[Claim]] = {}
        claims: list[Claim] = []
        for delivery in waiting:
            if len(claims) == limit:
                break
            tried[delivery] = queue.claim(worker, 1, delivery.job_id)
            claims += tried[delivery]
        # Before that it may all be undone, and is then tried again.
        transaction.on_commit(partial(self._settle, tried))
        return claims

    def ended(self, claim: Claim) -> None:
        delivery = self._running.pop(claim, None)
        if delivery:
            delivery.done.set_result(True)

    def close(self) -> None:
        """Give back what has not ended."""
        with self._lock:
            self._closed = True
            left = [*self._waiting, *self._running.values()]
            self._waiting, self._running = [], {}
        for delivery in left:
            delivery.done.set_result(False)

    def _settle(self, tried: Mapping[Delivery, list[Claim]]) -> None:
        with self._lock:
            self._waiting = [one for one in self._waiting if one not in tried]
        for delivery, claims in tried.items():
            for claim in claims:
                self._running[claim] = delivery
            if not claims:
                # It has ended, or somebody is at it, or its time has not come: it
                # is handed over again when it is to be.
                delivery.done.set_result(True)
