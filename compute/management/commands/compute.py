"""Run the process pool that executes jobs, until a signal."""

import logging
import multiprocessing
import os
import signal
import sys
from socket import gethostname
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from compute.pool import fork_server, process_tree
from compute.pool.supervisor import Supervisor
from resilient_site.observability import metrics, tracing
from resilient_site.observability.logging import line_handler
from resilient_site.resilience.breaker_overrides import breaker_overrides

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the process pool that executes jobs."
    requires_system_checks = []  # some need the database, which may be down

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.COMPUTE_BACKEND == "celery":
            run_celery()
        fork_server.start()
        start_threads()
        supervisor = Supervisor()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        logger.info("%d processes are waiting for jobs.", len(supervisor.workers))
        supervisor.run()


def start_threads() -> None:
    metrics.start("compute")
    metrics.listen(settings.METRICS_BIND)
    tracing.start("compute")
    breaker_overrides.start()
    line_handler().start()


def run_celery() -> None:
    """Run a worker of Celery in a child process, and relay and beat in this one.

    This process adopts and kills what jobs have started, should the worker be killed.
    """
    # No other process of the site loads Celery.
    from celery.beat import EmbeddedService

    from compute.celery.relay import Relay
    from resilient_site.celery import app

    process_tree.adopt_orphans()
    # Forked before this process has threads.
    worker = multiprocessing.get_context("fork").Process(target=run_worker)
    worker.start()
    relay, signals = Relay(), [signal.SIGTERM, signal.SIGINT]

    def pass_on(*_: object) -> None:
        relay.stop()
        if signals and worker.pid:
            os.kill(worker.pid, signals.pop(0))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    start_threads()
    EmbeddedService(app, thread=True, scheduler_cls=app.conf.beat_scheduler).start()
    relay.run(worker.is_alive)
    worker.join()
    process_tree.end_descendants()
    sys.exit(0 if len(signals) < 2 else 1)


def run_worker() -> None:
    """Run a worker as `celery -A resilient_site worker` does."""
    from resilient_site.celery import app

    os.setpgrp()  # Ctrl-C is for the parent
    process_tree.end_with_supervisor()
    # There may be several on a machine.
    worker = app.Worker(quiet=True, hostname=f"compute-{os.getpid()}@{gethostname()}")
    worker.start()
    sys.exit(worker.exitcode or 0)
