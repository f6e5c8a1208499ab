"""Health monitor: checks every component once a second, beside the requests.

Each component has a thread of its own: a check that hangs delays no other and no
request. If it has not returned for `HANGING_AFTER_S`, its component is unknown.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from django.db import close_old_connections, connections

from resilient_site.health.checks import DATABASE
from resilient_site.health.components import (
    CheckResult,
    Component,
    Figures,
    Status,
    all_components,
)
from resilient_site.resilience.breakers import describe

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
HANGING_AFTER_S = 3.0
UNKNOWN_MEANING = "Its state could not be checked."


@dataclass(frozen=True)
class ComponentStatus:
    """The status of a component, and since when it has it."""

    name: str
    title: str
    kind: str
    status: Status
    meaning: str
    since: datetime
    # For operators only; these change all the time.
    error: str = field(default="", compare=False)
    figures: Figures = field(default=(), compare=False)


@dataclass(frozen=True)
class Report:
    components: tuple[ComponentStatus, ...]

    @property
    def not_passing(self) -> tuple[ComponentStatus, ...]:
        return tuple(c for c in self.components if c.status is not Status.PASS)

    def status_of(self, name: str) -> Status:
        found = (c.status for c in self.components if c.name == name)
        return next(found, Status.UNKNOWN)


class ComponentMonitor:
    """Checks one component and holds its status."""

    def __init__(
        self, component: Component, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.component = component
        self._clock = clock
        self._last = ComponentStatus(
            component.name,
            component.title,
            component.kind,
            Status.UNKNOWN,
            UNKNOWN_MEANING,
            datetime.now(UTC),
        )
        self._checked_at = clock()

    def run_check(self) -> None:
        try:
            result = self.component.check()
        except Exception as error:  # noqa: BLE001 - whatever a check may raise
            result = CheckResult(Status.UNKNOWN, UNKNOWN_MEANING, describe(error))
        before = self._last
        changed = result.status is not before.status
        since = datetime.now(UTC) if changed else before.since
        self._last = replace(before, **vars(result), since=since)
        if changed:
            self._log(before.status)
        self._checked_at = self._clock()

    @property
    def status(self) -> ComponentStatus:
        last, ago = self._last, self._clock() - self._checked_at
        if ago < HANGING_AFTER_S or last.status is Status.UNKNOWN:
            return last
        since = datetime.fromtimestamp(round(time.time() - ago), UTC)
        return replace(
            last,
            status=Status.UNKNOWN,
            meaning=UNKNOWN_MEANING,
            since=since,
            error=f"The check has not returned since {since:%H:%M:%S} UTC.",
        )

    def _log(self, before: Status) -> None:
        """Log the change; its cause was logged where it happened."""
        now = self._last
        if before is Status.UNKNOWN and now.status is Status.PASS:
            return
        level = logging.INFO if now.status is Status.PASS else logging.WARNING
        text = f"{now.title}: {now.status.upper()}. {now.meaning}"
        extra = {"event_name": f"component_{now.status}", "component": now.name}
        logger.log(level, text, extra=extra)


class HealthMonitor:
    """The monitors of one process, each in a thread."""

    def __init__(self) -> None:
        self.monitors: list[ComponentMonitor] = []
        self._stopping: threading.Event | None = None
        # The edge sets these.
        self.is_stopping: Callable[[], bool] = lambda: False
        self.has_stale_responses: Callable[[], bool] = lambda: False
        # Called with the epoch of the database, each second.
        self.on_epoch: Callable[[str], None] = lambda epoch: None

    def start(self, components: Iterable[Component] | None = None) -> None:
        self._stopping = threading.Event()
        self.monitors = [ComponentMonitor(c) for c in components or all_components()]
        for monitor in self.monitors:
            threading.Thread(
                target=self._run,
                args=(monitor, self._stopping),
                name=f"health-{monitor.component.name}",
                daemon=True,
            ).start()

    def stop(self) -> None:
        """Start no more checks; do not wait for one that hangs."""
        if self._stopping:
            self._stopping.set()
        self._stopping = None

    @property
    def is_running(self) -> bool:
        return self._stopping is not None

    def why_not_ready(self, report: Report) -> str:
        """Return why this process cannot answer requests; "" if it can."""
        if self.is_stopping():
            return "The process is stopping."
        if report.status_of(DATABASE) is Status.FAIL and not self.has_stale_responses():
            return "The database does not answer, and no responses are cached."
        return ""

    def report(self) -> Report:
        """Return the last results at once; if no threads run, check now."""
        if not self.is_running:
            self.monitors = self.monitors or list(
                map(ComponentMonitor, all_components())
            )
            for monitor in self.monitors:
                monitor.run_check()
        return Report(tuple(monitor.status for monitor in self.monitors))

    def degraded(self) -> list[str]:
        """Return the names of components that do not pass; [] if no threads run."""
        report = self.report() if self.is_running else Report(())
        return [component.name for component in report.not_passing]

    def _run(self, monitor: ComponentMonitor, stopping: threading.Event) -> None:
        while not stopping.is_set():
            with suppress(Exception):  # the check itself then fails as well
                close_old_connections()
            monitor.run_check()
            stopping.wait(PERIOD_S)
        connections.close_all()


health_monitor = HealthMonitor()
