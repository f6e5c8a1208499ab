"""Health check of the event publishing: how far behind the relay is."""

from collections.abc import Iterator

from django.conf import settings
from django.db.models.functions import Now
from django.utils import timezone

from items.changes import feed
from items.models import EventRelay, ItemChange
from resilient_site.health.components import (
    CheckResult,
    Component,
    Figures,
    Status,
    register,
)
from resilient_site.operations import doctor
from resilient_site.resilience import deadlines

PATIENCE_S = 2.0
BEHIND_S = 10.0
COUNTED_MAX = 10_000
OK = "Changes are published to the broker."
NO_RELAY = "No relay is running. Changes are published once one is."
NO_BROKER = "The broker does not respond. Changes are published once it does."
DELAYED = "Changes are published with a delay."


def check() -> CheckResult:
    with deadlines.within(PATIENCE_S):
        row = EventRelay.objects.first() or EventRelay()
        is_held = EventRelay.objects.filter(held_until__gte=Now()).exists()
        waiting = ItemChange.objects.filter(feed.is_after(row.position))
        number = waiting[:COUNTED_MAX].count()
        first = waiting.order_by("transaction", "id").first()
    behind_s = (timezone.now() - first.at).total_seconds() if first else 0.0
    figures: Figures = (
        ("Changes to publish", f"{number:,}" + "+" * (number == COUNTED_MAX)),
        ("Seconds behind", f"{max(behind_s, 0):,.0f}"),
        ("Relay", row.holder.rpartition(":")[0] or "none"),
    )
    if not is_held:
        return CheckResult(Status.FAIL, NO_RELAY, figures=figures)
    if row.trouble:
        return CheckResult(Status.FAIL, NO_BROKER, error=row.trouble, figures=figures)
    if behind_s >= BEHIND_S:
        return CheckResult(Status.WARN, DELAYED, figures=figures)
    return CheckResult(Status.PASS, OK, figures=figures)


def examine() -> Iterator[doctor.Finding]:
    """Report the same for `manage.py doctor`."""
    yield doctor.reach(settings.EVENTS_URL)
    found = check()
    (_, number), (_, behind_s), _ = found.figures
    said = f"{found.meaning} {number} wait, for up to {behind_s} s."
    if found.status is Status.PASS:
        yield doctor.ok(said)
    else:
        todo = "Start manage.py relay_events." if found.meaning == NO_RELAY else ""
        yield doctor.failure(
            said, todo or found.error or "See the log of relay_events."
        )


def register_all() -> None:
    register(Component("events", "Events", "component", check))
    doctor.register("events", examine)
