"""Relay: publishes due jobs to the broker, every attempt of each.

While the broker is down, jobs wait in the database. A job that is published but not
marked, because the relay was killed in between, is published twice: that is harmless,
and the reverse order could lose it.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from amqp.exceptions import ChannelError
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models.functions import Now

from compute import queue
from compute.celery.app import BROKER_ERRORS, QUEUE, app, connect, retry_delay_s, run
from compute.models import Job
from compute.pool.supervisor import POLL_S, Interval
from compute.pool.wakeup import Wakeup
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State

logger = logging.getLogger(__name__)

BATCH = 50
# A batch is marked after this time, however slow the broker is.
BATCH_MAX_S = 0.5
# A job that was published so long ago, and is still waiting, was lost if the broker's
# queue is empty.
LOST_AFTER = timedelta(seconds=10)
# The same for a queue that is never empty.
LOST_FOR_CERTAIN_AFTER = timedelta(minutes=15)
# The key of an advisory lock in PostgreSQL.
LOCK = 0x72656C6179


class Relay:
    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._stopping = False
        self._broker: Any = None
        self._may_have_jobs = True
        self._failures, self._missing = 0, ""
        self._retry_at = 0.0
        self._poll = Interval(POLL_S)
        self._search = Interval(LOST_AFTER.total_seconds() / 4)

    def run(self) -> None:
        """Publish jobs until `stop` is called."""
        while not self._stopping:
            self._may_have_jobs |= self._poll.is_due()
            if self._may_have_jobs and time.monotonic() >= self._retry_at:
                self.turn()
            pause_s = self._poll.every_s
            if self._may_have_jobs:
                pause_s = max(0, self._retry_at - time.monotonic())
            self._may_have_jobs |= self.wakeup.wait([], pause_s)
        self._disconnect()
        self.wakeup.close()
        connection.close()

    def stop(self) -> None:
        self._stopping = True
        self.wakeup.wake()

    def turn(self) -> None:
        """Publish the due jobs, unless the broker or the database fails."""
        if breakers.broker.forced is State.OPEN:
            self._retry_at = time.monotonic() + self._poll.every_s
            return
        try:
            while not self._stopping and self.publish_due():
                pass
            if self._missing:
                self._connected()
            if self._search.is_due():
                self.requeue_lost()
        except (DatabaseError, InterfaceError) as error:
            connection.close()
            self._failed("database", error)
        except BROKER_ERRORS as error:
            self._disconnect()
            breakers.broker.trip(error)
            self._failed("broker", error)
        else:
            self._may_have_jobs = False
            breakers.broker.reset()
            self._succeeded()

    def publish_due(self) -> int:
        """Publish a batch of the due jobs; return how many."""
        published: dict[UUID, int] = {}
        failure: Exception | None = None
        with _relay_lock() as has_lock:
            batch = self._due() if has_lock else []
            end = time.monotonic() + BATCH_MAX_S
            try:
                for job_id, epoch in batch:
                    self._publish(job_id)
                    published[job_id] = epoch
                    if time.monotonic() > end:
                        break
            except BROKER_ERRORS as error:
                failure = error
            _mark(published, handed_over_at=Now())
        if failure:
            raise failure
        return len(published)

    def _due(self) -> list[tuple[UUID, int]]:
        """Return jobs to publish: those of anonymous clients last, and few at a time.

        A broker delivers in order, so that later jobs of people would wait for them.
        """
        due = Job.objects.claimable().filter(handed_over_at=None)
        batch = list(due.of_people().values_list("pk", "epoch")[:BATCH])
        published = Job.objects.unfinished().anonymous().exclude(handed_over_at=None)
        # A job in parts has been handed over, and waits for them.
        left = queue.anonymous_max() - published.exclude(parts_left__gt=0).count()
        if left > 0 and len(batch) < BATCH:
            batch += due.anonymous().values_list("pk", "epoch")[:left]
        return batch

    def requeue_lost(self) -> None:
        """Mark jobs whose messages the broker has lost to be published again."""
        lost = Job.objects.claimable().filter(handed_over_at__lt=Now() - LOST_AFTER)
        if not lost.exists():
            return
        if self._messages():
            latest = Now() - LOST_FOR_CERTAIN_AFTER
            lost = lost.filter(handed_over_at__lt=latest)
        with transaction.atomic():
            number = _mark(dict(lost.values_list("pk", "epoch")), handed_over_at=None)
        if number:
            logger.warning(
                "%d jobs were not delivered, and are published again.", number
            )

    def _publish(self, job_id: UUID) -> None:
        run.apply_async(
            (str(job_id),),
            task_id=str(job_id),
            producer=self._connected().Producer(auto_declare=False),
            retry=False,
            # Else the broker would confirm and drop a message without a queue.
            mandatory=True,
        )

    def _messages(self) -> int:
        """Return how many messages wait in the queue."""
        channel = self._connected().default_channel
        try:
            found = channel.queue_declare(queue=QUEUE, passive=True)
        except ChannelError:
            self._disconnect()
            return 0  # there is no queue
        return int(found.message_count)

    def _connected(self) -> Any:
        if self._broker is None:
            self._broker = app.connection_for_write()
            connect(self._broker)
            # No worker may have declared it yet.
            app.amqp.queues[QUEUE].bind(self._broker.default_channel).declare()
        return self._broker

    def _disconnect(self) -> None:
        if self._broker is not None:
            # Unlike `close` it does not wait for a reply.
            self._broker.collect()
            self._broker = None

    def _succeeded(self) -> None:
        if self._missing:
            logger.warning("Jobs are published again.")
        self._failures, self._missing = 0, ""

    def _failed(self, what: str, error: Exception) -> None:
        """Delay the next attempt, unless it is the first failure of a connection."""
        self._failures += 1
        if self._failures == 1:
            self._retry_at = 0
            return
        if what != self._missing:
            logger.error("Jobs are not published, the %s failed: %s", what, error)
        self._missing = what
        self._retry_at = time.monotonic() + retry_delay_s(self._failures)


@contextmanager
def _relay_lock() -> Iterator[bool]:
    """Try to take the lock of the one relay that publishes; yield whether it has it.

    Rows are not locked during publication, as they may be claimed and cancelled. On
    SQLite, which has one machine only, jobs are at worst published twice.
    """
    if connection.vendor != "postgresql":
        yield True
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        yield cursor.fetchone()[0]


def _mark(epochs: Mapping[UUID, int], **changes: Any) -> int:
    """Update those jobs that have not been claimed meanwhile, and are not locked."""
    if not epochs:
        return 0
    with transaction.atomic(savepoint=False):
        queued = Job.objects.filter(pk__in=epochs, state=Job.State.QUEUED)
        locked = queued.select_for_update(skip_locked=True).values_list("pk", "epoch")
        same = [pk for pk, epoch in locked if epochs[pk] == epoch]
        return Job.objects.filter(pk__in=same).update(**changes)
