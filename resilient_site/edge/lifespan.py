"""What lives as long as the web process: begun with it, and ended with it."""

from django.conf import settings
from django.db import connection

from resilient_site import spans
from resilient_site.edge import figures, wellness
from resilient_site.edge.stores import distant, last_known
from resilient_site.health import page
from resilient_site.health.watching import watch
from resilient_site.later import Receive, Send
from resilient_site.lines import lines
from resilient_site.postgres.pulse import pulse
from resilient_site.resilience.broadcast import subscriber
from resilient_site.resilience.generations import generations
from resilient_site.resilience.holds import holds


def start() -> None:
    lines.begin()
    spans.begin("web")
    generations.forget_earlier_boots()
    last_known.start()
    distant.start()
    if connection.vendor == "postgresql":
        pulse.start()
    if settings.REDIS_URL:
        subscriber.start()
    holds.start()
    wellness.register_all()
    watch.start()
    page.warm_up()
    figures.start()


def stop() -> None:
    figures.stop()
    spans.end()
    watch.stop()
    holds.stop()
    subscriber.stop()
    pulse.stop()
    last_known.stop()
    distant.stop()


async def run(receive: Receive, send: Send) -> None:
    await receive()
    start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    stop()
    await send({"type": "lifespan.shutdown.complete"})
