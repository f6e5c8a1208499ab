"""`COMPUTE_BACKEND=celery`: the same jobs, spread over machines by a broker.

The database stays the truth. A message carries the id of a job and is a hint: who gets
it takes the job from the database, as without a broker, or finds that it is not to be
had and drops the message. So messages may come twice, late or never; the relay hands
jobs over again that wait for too long.

The Celery task works on nothing itself. It gives the id to the supervisor, which is the
one of the pool and runs in a thread of the Celery worker, and waits until the job has
ended, so that the message is acknowledged then. A worker that dies leaves its messages
to the others, who drop them while the job's lease lasts; after that the job is handed
over anew.
"""

import logging
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from threading import Thread, Timer
from typing import Any
from uuid import UUID

from amqp.exceptions import AMQPError, MessageNacked
from celery import Celery, bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning, Reject
from celery.platforms import EX_FAILURE, EX_OK
from celery.worker import consumer, state
from django.conf import settings
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

# For `celery -A compute.celery.app worker`, which is started without Django.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")

logger = logging.getLogger(__name__)

QUEUE = "compute"
# For one step of talking to the broker: it may hang as well as be away.
BROKER_TIMEOUT_S = 3
RETRY_MAX_S = 2.0
BROKER_ERRORS = (OSError, AMQPError, MessageNacked, KombuError, RedisError)
# RabbitMQ closes the channel on which a message is not acknowledged for half an hour
# (its consumer_timeout), and Redis delivers it again after the visibility time-out. A
# longer job goes on: its message comes again and is dropped. So it is with a message
# that has reached the delivery limit of its queue: the job is handed over again.
_OPTIONS: dict[str, dict[str, Any]] = {
    "amqp": {
        # What is published is on the broker's disk when `publish` returns.
        "confirm_publish": True,
        "read_timeout": BROKER_TIMEOUT_S,
        "write_timeout": BROKER_TIMEOUT_S,
    },
    "redis": {
        "socket_timeout": BROKER_TIMEOUT_S,
        "socket_connect_timeout": BROKER_TIMEOUT_S,
        "visibility_timeout": 3600,
    },
}

app = Celery("compute")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_transport_options=_OPTIONS[
        "redis" if settings.BROKER_URL.startswith("redis") else "amqp"
    ],
    broker_connection_timeout=BROKER_TIMEOUT_S,
    broker_connection_retry_on_startup=True,
    broker_channel_error_retry=True,
    broker_heartbeat=30,
    task_default_queue=QUEUE,
    task_default_queue_type="quorum",
    task_acks_late=True,
    task_ignore_result=True,
    worker_pool="threads",
    worker_concurrency=settings.COMPUTE_PROCESSES,
    worker_prefetch_multiplier=1,
    worker_consumer="compute.celery.app:Consumer",
    worker_enable_remote_control=False,
    worker_enable_prefetch_count_reduction=False,
    # Jobs go on when the broker is away: what they bring goes to the database.
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task(name="compute.task_context")  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """See the job through, if it is to be had."""
    if not _supervision.deliver(UUID(job_id)):
        raise Reject(requeue=True)


def retry_delay_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: a little at random."""
    longest = min(0.2 * 2.0 ** min(failures, 9), RETRY_MAX_S)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing to guess


def connect(connection: Any) -> None:
    """Connect to the first broker that is there, if BROKER_URL names several."""
    connection.ensure_connection(max_retries=max(len(connection.alt) - 1, 0))


def start(name: str, function: Callable[[], None]) -> Thread:
    """Run `function` in a thread; if that fails, the worker must not go on without."""

    def watched() -> None:
        try:
            function()
        except Exception:
            logger.exception("The %s failed.", name)
            state.should_stop = EX_FAILURE

    thread = Thread(target=watched, name=name, daemon=True)
    thread.start()
    return thread


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Celery's, which comes back to a broker soon, and with less noise."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        # For messages with a delay, of which there are none, it would make 28 queues.
        default_steps = [
            step
            for step in consumer.Consumer.Blueprint.default_steps
            if not step.endswith(":DelayedDelivery")
        ]

    def __init__(self, *args: Any, **options: Any) -> None:
        # What the workers of a site would tell each other: nobody listens.
        silent = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, **options, **silent, without_heartbeat=True)

    def ensure_connected(self, connection: Any) -> Any:
        """Celery's own waits up to half a minute, and gives up for good some day."""
        failures = 0
        while True:
            state.maybe_shutdown()
            try:
                connect(connection)
            except BROKER_ERRORS as error:
                if not failures:
                    where = connection.as_uri()
                    logger.error("The broker at %s is away: %s", where, error)
                time.sleep(retry_delay_s(failures))
                failures += 1
            else:
                self.first_connection_attempt = False
                return connection


class Supervision(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the supervisor in a thread, as long as the worker consumes."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        global _supervision
        super().__init__(worker, **options)
        _supervision = self

    def start(self, worker: Any) -> None:
        # Not before Django is set up, which is later than this module.
        from compute.celery.deliveries import Deliveries
        from compute.pool.supervisor import Supervisor
        from compute.pool.wakeup import Wakeup

        wakeup = Wakeup()
        self.deliveries = Deliveries(wakeup)
        self.supervisor = Supervisor(source=self.deliveries, wakeup=wakeup)
        self.thread = start("supervisor", self._supervise)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        # It comes with a long text at every connection that is lost.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        logger.info("%d processes wait for jobs.", len(self.supervisor.slots))

    def stop(self, worker: Any) -> None:
        """End as the supervisor does; no more messages come in by now."""
        self.supervisor.stop()
        self.thread.join()
        # The jobs are in safety: a broker that hangs must not hold up the end.
        goodbye = Timer(BROKER_TIMEOUT_S, os._exit, [state.should_stop or EX_OK])
        goodbye.daemon = True
        goodbye.start()

    terminate = stop

    def deliver(self, job_id: UUID) -> bool:
        return self.deliveries.deliver(job_id)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        # Between events the loop may sleep for seconds, also through a signal.
        hub.call_repeatedly(0.5, lambda: None)

    def _supervise(self) -> None:
        try:
            self.supervisor.run()
        finally:
            self.deliveries.close()

    def _on_signal(self, number: int, frame: object) -> None:
        """Stop consuming; a second signal also stops the jobs at once."""
        if state.should_stop is None:
            state.should_stop = EX_OK
        else:
            self.supervisor.stop()
            self.supervisor.stop()


_supervision: Supervision
app.steps["worker"].add(Supervision)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def leave_logging_to_django(**options: Any) -> None:
    """Being there is enough. What Celery says of every message is left out."""
    for name in ("strategy", "consumer.tasks"):
        logging.getLogger(f"celery.worker.{name}").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)
    # When a job has ended after its connection: the message comes again.
    logging.getLogger("celery.worker.request").addFilter(
        lambda record: not str(record.msg).startswith("Couldn't ack")
    )


def work() -> int:
    """Run a worker, and a relay beside it, until a signal; return the exit status."""
    from compute.celery.relay import Relay

    worker = app.Worker(quiet=True)
    relay = Relay()
    thread = start("relay", relay.run)
    worker.start()
    relay.stop()
    thread.join()
    return int(worker.exitcode or EX_OK)
