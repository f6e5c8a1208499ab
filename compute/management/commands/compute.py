"""Run the pool that does the jobs, until it is told to stop."""

import logging
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from compute.pool.supervisor import Queue, Supervisor
from compute.pool.wakeup import Wakeup, on_signals
from resilient_site.observability.logging import start_listener
from resilient_site.observability.metrics import sharing
from resilient_site.resilience.breaker_overrides import holds

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the jobs that the site is asked for, in processes of their own."
    requires_system_checks = []  # some ask the database, which may be away

    def handle(self, *args: Any, **options: Any) -> None:
        sharing.clean("compute")
        sharing.teller.start("compute")
        holds.start()
        if settings.COMPUTE_BACKEND == "celery":
            # Only here: no other process of the site needs to load Celery.
            from compute.celery import app

            sys.exit(app.work())
        start_listener()
        wakeup = Wakeup()
        supervisor = Supervisor(source=Queue(), wakeup=wakeup)
        on_signals(wakeup, supervisor.stop)
        logger.info("%d processes wait for jobs.", len(supervisor.slots))
        supervisor.run()
