"""Celery application of `COMPUTE_BACKEND=celery`: a broker distributes the jobs.

The database remains the only record of jobs. A message carries the id of a job as a
hint: its receiver claims the job in the database, as without a broker, or drops the
message if it cannot. So messages may arrive twice, late or never; the relay publishes
jobs again that wait for too long.

The Celery task does no work itself. It passes the id to the supervisor, which is that
of the pool and runs in a thread of the Celery worker, and waits until the job has
finished, when the message is acknowledged. The messages of a dead worker go to others,
which drop them while the job's lease lasts; then the job is published again.
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
from celery.worker import consumer, request, state
from django.conf import settings
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

# `celery -A compute.celery worker` starts without Django.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "resilient_site.settings")

logger = logging.getLogger(__name__)

QUEUE = "compute"
# For one network operation: a broker may hang.
BROKER_TIMEOUT_S = 3
# A broker that is silent for about twice as long is connected to anew: the network may
# have lost the connection without a word.
HEARTBEAT_S = 5
RETRY_MAX_S = 2.0
BROKER_ERRORS = (OSError, AMQPError, MessageNacked, KombuError, RedisError)
# RabbitMQ closes the channel on which a message is not acknowledged for half an hour
# (its consumer_timeout), and Redis delivers it again after the visibility time-out. A
# longer job continues: its message comes again and is dropped. After a message reaches
# the delivery limit of its queue, the job is published again.
_OPTIONS: dict[str, dict[str, Any]] = {
    "amqp": {
        # A message is on the broker's disk when `publish` returns.
        "confirm_publish": True,
        "read_timeout": BROKER_TIMEOUT_S,
        "write_timeout": BROKER_TIMEOUT_S,
    },
    "redis": {
        "socket_timeout": BROKER_TIMEOUT_S,
        "socket_connect_timeout": BROKER_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": HEARTBEAT_S,
        "visibility_timeout": 3600,
    },
}

_TRANSPORT = "redis" if settings.BROKER_URL.startswith("redis") else "amqp"

app = Celery("compute")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_transport_options=_OPTIONS[_TRANSPORT],
    broker_connection_timeout=BROKER_TIMEOUT_S,
    broker_connection_retry_on_startup=True,
    broker_channel_error_retry=True,
    broker_heartbeat=HEARTBEAT_S,
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
    # Jobs continue without the broker: their results go to the database.
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


class Request(request.Request):  # type: ignore[misc]
    """A message; one that Redis cannot acknowledge ends the connection.

    kombu counts such a message as unacknowledged for ever: after as many as a worker
    may hold, it would stop consuming. A new connection begins a new count.
    """

    def __init__(self, *args: Any, connection_errors: Any = (), **options: Any) -> None:
        if _TRANSPORT == "redis":
            connection_errors = ()  # those that are logged, and nothing else is done
        super().__init__(*args, connection_errors=connection_errors, **options)


@app.task(name="compute.run", Request=Request)  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """Run the job, if it can be claimed."""
    if not _supervisor_step.deliver(UUID(job_id)):
        raise Reject(requeue=True)


def retry_delay_s(failures: int) -> float:
    """Return the delay after so many consecutive failures, with jitter."""
    longest = min(0.2 * 2.0 ** min(failures, 9), RETRY_MAX_S)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - not a secret


def connect(connection: Any) -> None:
    """Connect to the first available broker of those in BROKER_URL."""
    connection.ensure_connection(max_retries=max(len(connection.alt) - 1, 0))


def start_thread(name: str, function: Callable[[], None]) -> Thread:
    """Run `function` in a thread; the worker stops if it fails."""

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
    """Celery's consumer, but it reconnects soon, and logs less."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        # Unused here, and it would declare 28 queues.
        default_steps = [
            step
            for step in consumer.Consumer.Blueprint.default_steps
            if not step.endswith(":DelayedDelivery")
        ]

    def __init__(self, *args: Any, **options: Any) -> None:
        # Messages between workers, which nothing here reads.
        disabled = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, **options, **disabled, without_heartbeat=True)

    def ensure_connected(self, connection: Any) -> Any:
        """Retry for ever: Celery waits up to half a minute, and finally gives up."""
        failures = 0
        while True:
            state.maybe_shutdown()
            try:
                connect(connection)
            except BROKER_ERRORS as error:
                if not failures:
                    where = connection.as_uri()
                    logger.error("The broker at %s is unavailable: %s", where, error)
                time.sleep(retry_delay_s(failures))
                failures += 1
            else:
                self.first_connection_attempt = False
                return connection


class SupervisorStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the supervisor in a thread while the worker consumes."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        global _supervisor_step
        super().__init__(worker, **options)
        _supervisor_step = self
        self._signals: list[int] = []

    def start(self, worker: Any) -> None:
        # Django is set up after the import of this module.
        from compute.celery.deliveries import Deliveries
        from compute.pool.supervisor import Supervisor
        from compute.pool.wakeup import Wakeup

        wakeup = Wakeup()
        self.deliveries = Deliveries(wakeup)
        self.supervisor = Supervisor(source=self.deliveries, wakeup=wakeup)
        # Before the worker consumes: it would hold messages that others could take.
        for one in self.supervisor.workers:
            one.start()
        self.thread = start_thread("supervisor", self._run_supervisor)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        # A long text at every lost connection.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        logger.info("%d processes are waiting for jobs.", len(self.supervisor.workers))

    def stop(self, worker: Any) -> None:
        """Stop as the supervisor does; the worker has stopped consuming by now."""
        self.supervisor.stop()
        self.thread.join()
        # The jobs are in the database: a broker that hangs must not delay the exit.
        exit_timer = Timer(BROKER_TIMEOUT_S, os._exit, [state.should_stop or EX_OK])
        exit_timer.daemon = True
        exit_timer.start()

    terminate = stop

    def deliver(self, job_id: UUID) -> bool:
        return self.deliveries.deliver(job_id)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        # Else the loop may sleep for seconds, even after a signal.
        hub.call_repeatedly(0.5, lambda: None)

    def _run_supervisor(self) -> None:
        try:
            self.supervisor.run()
        finally:
            self.deliveries.close()

    def _on_signal(self, number: int, frame: object) -> None:
        """Stop consuming; at a second signal, stop the jobs at once."""
        # The handler of a second signal may interrupt that of the first.
        self._signals.append(number)
        if state.should_stop is None:
            state.should_stop = EX_OK
        if len(self._signals) > 1:
            self.supervisor.stop()
            self.supervisor.stop()


_supervisor_step: SupervisorStep
app.steps["worker"].add(SupervisorStep)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def leave_logging_to_django(**options: Any) -> None:
    """Keep Celery from configuring logging; drop its lines about each message."""
    for name in ("strategy", "consumer.tasks"):
        logging.getLogger(f"celery.worker.{name}").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)
    # A job finished after its connection was lost: the message comes again.
    logging.getLogger("celery.worker.request").addFilter(
        lambda record: not str(record.msg).startswith("Couldn't ack")
    )


def run_worker() -> int:
    """Run a worker and a relay until a signal; return the exit status."""
    from compute.celery.relay import Relay

    worker = app.Worker(quiet=True)
    relay = Relay()
    thread = start_thread("relay", relay.run)
    worker.start()
    relay.stop()
    thread.join()
    return int(worker.exitcode or EX_OK)
