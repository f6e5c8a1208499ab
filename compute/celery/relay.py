"""Handing jobs over to the broker; every job goes this way, also each further try.

While the broker is away, jobs wait in the database. A job that is published but not
marked, because the relay was killed in between, is published again: that does no harm,
and the other order would lose it.
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

from compute.celery.app import BROKER_ERRORS, QUEUE, app, connect, retry_delay_s, run
from compute.models import Job
from compute.pool.supervisor import Timer
from compute.pool.wakeup import Wakeup
from resilient_site.resilience import breakers
from resilient_site.resilience.breakers import State

logger = logging.getLogger(__name__)

BATCH = 50
# A batch is marked after so long, however slow the broker is.
BATCH_MAX_S = 0.5
# A job that waits for so long after it was handed over, in an empty queue, was lost.
LOST_AFTER = timedelta(seconds=10)
# And in one that is never empty.
LOST_FOR_CERTAIN_AFTER = timedelta(minutes=15)
# The key of an advisory lock in PostgreSQL.
LOCK = 0x72656C6179


class Relay:
    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._stopping = False
        self._broker: Any = None
        self._may_find = True
        self._failures, self._missing = 0, ""
        self._retry_at = 0.0
        # For jobs whose time comes, and in case a wake-up was missed.
        self._look = Timer(0.5)
        self._search = Timer(LOST_AFTER.total_seconds() / 4)

    def run(self) -> None:
        """Hand jobs over until `stop` is called."""
        while not self._stopping:
            self._may_find |= self._look.is_due()
            if self._may_find and time.monotonic() >= self._retry_at:
                self.turn()
            pause_s = self._look.every_s
            if self._may_find:
                pause_s = max(0, self._retry_at - time.monotonic())
            self._may_find |= self.wakeup.wait([], pause_s)
        self._disconnect()
        self.wakeup.close()
        connection.close()

    def stop(self) -> None:
        self._stopping = True
        self.wakeup.ring()

    def turn(self) -> None:
        """Hand over what is due, as far as the broker and the database allow it."""
        if breakers.broker.snapshot().held is State.OPEN:
            self._retry_at = time.monotonic() + self._look.every_s
            return
        try:
            while not self._stopping and self.hand_over():
                pass
            if self._missing:
                self._connected()
            if self._search.is_due():
                self.find_lost()
        except (DatabaseError, InterfaceError) as error:
            connection.close()
            self._failed("database", error)
        except BROKER_ERRORS as error:
            self._disconnect()
            breakers.broker.trip(error)
            self._failed("broker", error)
        else:
            self._may_find = False
            breakers.broker.reset()
            self._succeeded()

    def hand_over(self) -> int:
        """Publish a batch of the jobs that are due; return how many."""
        published: dict[UUID, int] = {}
        failure: Exception | None = None
        with _one_at_a_time() as is_mine:
            due = Job.objects.claimable().filter(handed_over_at=None)
            batch = due.values_list("pk", "epoch")[:BATCH] if is_mine else []
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

    def find_lost(self) -> None:
        """Have jobs handed over again whose messages the broker no longer has."""
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
                "%d jobs were not delivered, and are handed over again.", number
            )

    def _publish(self, job_id: UUID) -> None:
        run.apply_async(
            (str(job_id),),
            task_id=str(job_id),
            producer=self._connected().Producer(auto_declare=False),
            retry=False,
            # Without its queue a message would be confirmed, and gone.
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
            # Also where no worker has been yet.
            app.amqp.queues[QUEUE].bind(self._broker.default_channel).declare()
        return self._broker

    def _disconnect(self) -> None:
        if self._broker is not None:
            # Unlike `close` it does not wait for an answer.
            self._broker.collect()
            self._broker = None

    def _succeeded(self) -> None:
        if self._missing:
            logger.warning("Jobs are handed over again.")
        self._failures, self._missing = 0, ""

    def _failed(self, what: str, error: Exception) -> None:
        """Wait before the next try, but not before the first: a link may go stale."""
        self._failures += 1
        if self._failures == 1:
            self._retry_at = 0
            return
        if what != self._missing:
            logger.error("Jobs are not handed over, the %s failed: %s", what, error)
        self._missing = what
        self._retry_at = time.monotonic() + retry_delay_s(self._failures)


@contextmanager
def _one_at_a_time() -> Iterator[bool]:
    """Tell whether this relay is the one to hand over now.

    Rows are not locked while the broker is talked to, since others want to take and to
    cancel them. On SQLite, all on one machine, jobs would at worst be published twice.
    """
    if connection.vendor != "postgresql":
        yield True
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        yield cursor.fetchone()[0]


def _mark(epochs: Mapping[UUID, int], **changes: Any) -> int:
    """Change those jobs that nobody has taken meanwhile, or is about to."""
    if not epochs:
        return 0
    with transaction.atomic(savepoint=False):
        queued = Job.objects.filter(pk__in=epochs, state=Job.State.QUEUED)
        locked = queued.select_for_update(skip_locked=True).values_list("pk", "epoch")
        same = [pk for pk, epoch in locked if epochs[pk] == epoch]
        return Job.objects.filter(pk__in=same).update(**changes)
