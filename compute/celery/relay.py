"""Relay: publishes due jobs to the broker, every attempt of each.

While the broker is down, jobs wait in the database. A job that is published but not
marked, because the relay was killed in between, is published twice: that is harmless,
and the reverse order could lose it.
"""

import logging
from collections.abc import Callable
from typing import Any

from amqp.exceptions import AMQPError, ChannelError, MessageNacked
from django.db import DatabaseError, InterfaceError, connection
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from compute import completion, queue
from compute.celery.tasks import run
from compute.models import Job
from compute.pool.supervisor import POLL_S, Interval
from compute.pool.wakeup import Wakeup
from compute.running import HARD_LIMIT_S
from resilient_site.celery import app
from resilient_site.resilience import breakers

logger = logging.getLogger(__name__)

BROKER_ERRORS = (OSError, AMQPError, MessageNacked, KombuError, RedisError)
BATCH = 20
RETRY_S = 1.0


class Relay:
    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self._stopping = False
        self._broker: Any = None
        self._renewal = Interval(queue.LEASE_S / 4)

    def run(self, is_needed: Callable[[], bool] = lambda: True) -> None:
        """Publish jobs until `stop` is called."""
        while is_needed() and not self._stopping:
            self.wakeup.wait([], POLL_S if self.turn() else RETRY_S)

    def stop(self) -> None:
        self._stopping = True
        self.wakeup.wake()

    def turn(self) -> bool:
        """Publish the due jobs; return whether broker and database were available."""
        try:
            if is_due := self._renewal.is_due():
                completion.requeue_lost()
                completion.cancel_unawaited()
            if breakers.broker.forced is breakers.State.OPEN:
                return False
            while not self._stopping and self.publish_due() == BATCH:
                pass
            if is_due and queue.find_undelivered(is_queue_empty=True).exists():
                self.requeue_undelivered()
        except (DatabaseError, InterfaceError) as error:
            logger.error("Jobs are not published: %s", error)
            connection.close()
            return False
        except BROKER_ERRORS as error:
            self.disconnect()
            breakers.broker.trip(error)
            return False
        except Exception:
            # Without it no job would be published.
            logger.exception("The relay of jobs failed.")
            return False
        breakers.broker.reset()
        return True

    def publish_due(self) -> int:
        """Publish a batch of the due jobs; return how many."""
        published: list[Job] = []
        failure: Exception | None = None
        with queue.publisher_lock() as is_ours:
            try:
                for job in queue.find_unpublished(BATCH) if is_ours else []:
                    self._publish(job)
                    published.append(job)
            except BROKER_ERRORS as error:
                failure = error
            queue.mark_published(published)
        if failure:
            raise failure
        return len(published)

    def requeue_undelivered(self) -> None:
        """Mark jobs whose messages the broker has lost to be published again."""
        lost = queue.find_undelivered(is_queue_empty=not self._messages())
        if number := queue.mark_published(lost, published=False):
            logger.warning("%d jobs were not delivered: published again.", number)

    def disconnect(self) -> None:
        if self._broker is not None:
            self._broker.collect()  # unlike `close` it does not wait for a reply
            self._broker = None

    def _publish(self, job: Job) -> None:
        limit_s = job.spec.time_limit_s if job.spec else None
        run.apply_async(
            (str(job.pk),),
            task_id=str(job.pk),
            soft_time_limit=limit_s,
            time_limit=limit_s and limit_s + HARD_LIMIT_S,
            producer=self._connected().Producer(auto_declare=False),
            retry=False,
            # Else the broker would confirm and drop a message without a queue.
            mandatory=True,
        )

    def _messages(self) -> int:
        """Return how many messages wait in the queue."""
        name = app.conf.task_default_queue
        try:
            found = self._connected().default_channel.queue_declare(name, passive=True)
        except ChannelError:
            self.disconnect()
            return 0  # there is no queue
        return int(found.message_count)

    def _connected(self) -> Any:
        if self._broker is None:
            self._broker = app.connection_for_write()
            # Each of the brokers in BROKER_URL once.
            self._broker.ensure_connection(max_retries=len(self._broker.alt or [1]) - 1)
        return self._broker
