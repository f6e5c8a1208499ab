"""Tasks of Celery: `compute.run` runs one job, in a process of the prefork pool."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from billiard.pool import soft_timeout_sighandler
from celery import shared_task, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker import request
from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from compute import completion, queue, running
from compute.celery.keeper import keeper
from compute.outcomes import Outcome
from compute.pool import process_tree
from compute.queue import Claim
from resilient_site.observability import tracing
from resilient_site.operations import clean_up as expired

DATABASE_RETRY_S = 0.5


class Request(request.Request):  # type: ignore[misc]
    """A message; one that Redis cannot acknowledge ends the connection.

    kombu counts it as unacknowledged for ever: after as many as a worker may hold, it
    would stop consuming. A new connection begins a new count.
    """

    def __init__(self, *args: Any, connection_errors: Any = (), **options: Any) -> None:
        if settings.BROKER_URL.startswith("redis"):
            connection_errors = ()  # those that are logged, and nothing else is done
        super().__init__(*args, connection_errors=connection_errors, **options)


@shared_task(name="compute.run", Request=Request)  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """Run the job, if it can be claimed: the message may be late, or the second."""
    # Else a claim that waits for the database could be cut off by the time limit.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    worker = f"{keeper.node}:{os.getpid()}"
    for claim in _retry(lambda: queue.claim(worker, 1, UUID(job_id))):
        began = time.monotonic()
        outcome = _execute(claim)
        process_tree.end_descendants()
        _retry(partial(completion.finish_or_fail, claim, outcome))
        keeper.report(claim.task, type(outcome).__name__, time.monotonic() - began)


def _execute(claim: Claim) -> Outcome:
    try:
        signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
        report = partial(keeper.report, claim.key)
        return running.execute(claim, report, (SoftTimeLimitExceeded,))
    except SoftTimeLimitExceeded:  # not within the task, but just before or after it
        return running.time_limit_exceeded(claim)
    finally:
        # The limit does not count while the outcome waits for the database.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _retry[T](call: Callable[[], T]) -> T:
    """Call the database until it is available."""
    while True:
        try:
            close_old_connections()
            return call()
        except (DatabaseError, InterfaceError):
            connection.close()
            time.sleep(DATABASE_RETRY_S)


@shared_task(name="compute.clean_up")  # type: ignore[untyped-decorator]
def clean_up() -> None:
    expired.clean_up()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def set_up_process(**options: Any) -> None:
    process_tree.adopt_orphans()
    running.yield_to_others()
    tracing.start("job")
