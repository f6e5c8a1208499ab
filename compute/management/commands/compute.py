"""Run the process pool that executes jobs, until a signal."""

import logging
import signal
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from compute.pool.supervisor import DatabaseQueue, Supervisor
from compute.pool.wakeup import Wakeup
from resilient_site.observability import metrics, tracing
from resilient_site.observability.logging import line_handler
from resilient_site.resilience.breaker_overrides import breaker_overrides

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the process pool that executes jobs."
    requires_system_checks = []  # some need the database, which may be down

    def handle(self, *args: Any, **options: Any) -> None:
        metrics.start("compute")
        tracing.start("compute")
        breaker_overrides.start()
        if settings.COMPUTE_BACKEND == "celery":
            # No other process of the site loads Celery.
            from compute.celery.app import run_worker

            sys.exit(run_worker())
        line_handler().start()
        wakeup = Wakeup()
        supervisor = Supervisor(source=DatabaseQueue(), wakeup=wakeup)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        logger.info("%d processes are waiting for jobs.", len(supervisor.workers))
        supervisor.run()
