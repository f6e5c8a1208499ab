"""Looking at every part again and again, beside the requests.

Each part has a thread of its own: a check that hangs holds up no other, and nobody who
asks. What they ask for is what was found last, with how long ago that was.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from django.db import close_old_connections, connections

from resilient_site.health.components import Figures, Finding, Part, Status, all_parts
from resilient_site.resilience.breakers import describe

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
# Nothing found for so long: the check hangs.
HANGS_S = 3.0
NOT_KNOWN = "It cannot be told how it is at the moment."


@dataclass(frozen=True)
class Standing:
    """How a part is, and since when."""

    name: str
    title: str
    kind: str
    status: Status
    meaning: str
    since: datetime
    # What changes all the time, and is for staff alone.
    error: str = field(default="", compare=False)
    figures: Figures = field(default=(), compare=False)


@dataclass(frozen=True)
class Report:
    standings: tuple[Standing, ...]

    @property
    def troubled(self) -> tuple[Standing, ...]:
        return tuple(s for s in self.standings if s.status is not Status.PASS)

    def status_of(self, name: str) -> Status:
        found = (s.status for s in self.standings if s.name == name)
        return next(found, Status.UNKNOWN)


class Probe:
    """Looks at one part."""

    def __init__(self, part: Part, clock: Callable[[], float] = time.monotonic) -> None:
        self.part = part
        self._clock = clock
        now = datetime.now(UTC)
        self._last = Standing(
            part.name, part.title, part.kind, Status.UNKNOWN, NOT_KNOWN, now
        )
        self._looked_at = clock()

    def look(self) -> None:
        try:
            finding = self.part.check()
        except Exception as error:  # noqa: BLE001 - whatever a check may raise
            finding = Finding(Status.UNKNOWN, NOT_KNOWN, describe(error))
        last = self._last
        changed = finding.status is not last.status
        self._last = replace(
            last,
            status=finding.status,
            meaning=finding.meaning,
            since=datetime.now(UTC) if changed else last.since,
            error=finding.error,
            figures=finding.figures,
        )
        if changed:
            self._log(last.status, finding)
        self._looked_at = self._clock()

    @property
    def standing(self) -> Standing:
        last, ago = self._last, self._clock() - self._looked_at
        if ago < HANGS_S or last.status is Status.UNKNOWN:
            return last
        since = datetime.fromtimestamp(round(time.time() - ago), UTC)
        error = f"The check has found nothing since {since:%H:%M:%S} UTC."
        return replace(
            last, status=Status.UNKNOWN, meaning=NOT_KNOWN, since=since, error=error
        )

    def _log(self, before: Status, finding: Finding) -> None:
        if before is Status.UNKNOWN and finding.status is Status.PASS:
            return
        # Why it is so has been logged where it happened.
        level = logging.INFO if finding.status is Status.PASS else logging.WARNING
        status, meaning = finding.status.upper(), finding.meaning
        logger.log(level, "%s: %s. %s", self.part.title, status, meaning)


class Watch:
    """The threads of one process."""

    def __init__(self) -> None:
        self.probes: list[Probe] = []
        self._stopping: threading.Event | None = None

    def start(self, parts: Iterable[Part] | None = None) -> None:
        self._stopping = threading.Event()
        self.probes = [Probe(part) for part in parts or all_parts()]
        for probe in self.probes:
            threading.Thread(
                target=self._run,
                args=(probe, self._stopping),
                name=f"health-{probe.part.name}",
                daemon=True,
            ).start()

    def stop(self) -> None:
        """Look no more. A check that hangs is not waited for."""
        if self._stopping:
            self._stopping.set()
        self._stopping = None

    @property
    def is_watching(self) -> bool:
        return self._stopping is not None

    def report(self) -> Report:
        """Return what is known, at once; where nothing watches, look now."""
        if self._stopping is None:
            known = {probe.part.name for probe in self.probes}
            self.probes += [Probe(p) for p in all_parts() if p.name not in known]
            for probe in self.probes:
                probe.look()
        return Report(tuple(probe.standing for probe in self.probes))

    def _run(self, probe: Probe, stopping: threading.Event) -> None:
        while not stopping.is_set():
            with suppress(Exception):  # then the look itself will tell
                close_old_connections()
            probe.look()
            stopping.wait(PERIOD_S)
        connections.close_all()


watch = Watch()
