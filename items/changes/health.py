"""Health check of the change feed: whether a transaction holds it back.

As it reads the database each second in each web process, it also notices a new epoch
or generation of the caches, which ends what is cached.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import connection
from django.utils import timezone

from items.changes.transactions import first_open_transaction
from items.models import ItemChange
from resilient_site.health.components import (
    CheckResult,
    Component,
    Status,
    register,
)
from resilient_site.health.monitor import health_monitor
from resilient_site.models import Epoch
from resilient_site.operations import doctor
from resilient_site.resilience import deadlines

PATIENCE_S = 2.0
STANDING_STILL = timedelta(seconds=5)
OK = "Changes are delivered as they become final."
HELD = (
    "Changes wait to be delivered: a transaction of the database has been open since "
    "{since:%H:%M:%S} UTC. They are delivered once it ends."
)
# The start of another role's transaction may be hidden.
HOLDER = """
    SELECT pid, application_name, xact_start FROM pg_stat_activity
    WHERE backend_xid = %(number)s::text::xid8::xid
    UNION ALL
    SELECT NULL, gid, prepared FROM pg_prepared_xacts
    WHERE transaction = %(number)s::text::xid8::xid
"""


class Holder(NamedTuple):
    """The open transaction that holds the feed back: `pid` is None if prepared."""

    pid: int | None
    name: str
    since: datetime

    def __str__(self) -> str:
        which = f"Backend {self.pid}" if self.pid else "Prepared transaction"
        since = self.since.astimezone(UTC)
        return f"{which} ({self.name}), open since {since:%Y-%m-%d %H:%M:%S} UTC"

    @property
    def remedy(self) -> str:
        if self.pid:
            return f"End it: SELECT pg_terminate_backend({self.pid})."
        return f"End it: ROLLBACK PREPARED '{self.name}', or COMMIT PREPARED."


def holder() -> Holder | None:
    """Return what has held changes back for longer than a write takes, if anything."""
    number = first_open_transaction()
    if number is None:
        return None
    waiting = ItemChange.objects.filter(transaction__gte=number)
    first = waiting.order_by("transaction", "id").first()
    limit = timezone.now() - STANDING_STILL
    if first is None or first.at > limit:
        return None
    with connection.cursor() as cursor:
        cursor.execute(HOLDER, {"number": number})
        row = cursor.fetchone()
    if row is None:
        return None  # it has ended
    pid, name, since = row
    found = Holder(pid, name, since or first.at)
    return found if found.since <= limit else None


def check() -> CheckResult:
    with deadlines.within(PATIENCE_S):
        epoch, found = Epoch.objects.first(), holder()
    health_monitor.on_epoch(epoch.of_caches if epoch else "")
    if found is None:
        return CheckResult(Status.PASS, OK)
    meaning = HELD.format(since=found.since.astimezone(UTC))
    return CheckResult(Status.WARN, meaning, error=f"{found}.")


def examine() -> Iterator[doctor.Finding]:
    """Report the same for `manage.py doctor`."""
    found = holder()
    if found:
        yield doctor.warning(f"The feed stands still. {found}.", found.remedy)
    else:
        yield doctor.ok(OK)


def register_all() -> None:
    register(Component("feed", "Change feed", "component", check))
    doctor.register("feed", examine)
