import logging
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from resilient_site.observability import metrics
from resilient_site.resilience.breaker_overrides import breaker_overrides

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Publish every change of the catalogue as an event (EVENTS_URL)."
    requires_system_checks = []  # some need the database, which may be down

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.EVENTS_URL:
            raise CommandError("Set EVENTS_URL to the broker to publish to.")
        # Imported here, as no other process needs kombu.
        from items.events.relay import Relay

        metrics.start("relay")
        metrics.listen(settings.METRICS_BIND)
        breaker_overrides.start()
        relay = Relay(settings.EVENTS_URL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: relay.stop())
        logger.info("Events are published.")
        relay.run()
