"""Health check of the edge: whether it rejects requests, and what it has cached."""

import math
import time
from collections.abc import Callable, Iterator

from resilient_site.edge.admission import Admission
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import Priority
from resilient_site.edge.streaming import in_flight_responses
from resilient_site.edge.wsgi_bridge import admission
from resilient_site.health.components import CheckResult, Component, Status, register
from resilient_site.health.monitor import health_monitor
from resilient_site.postgres.replicas import replicas

# How long after a rejection the site still counts as overloaded.
OVERLOADED_FOR_S = 10.0
ACCEPTING = "Accepting requests."
OVERLOADED = (
    "There are more requests than the site can process. Some pages are shown as they "
    "were a while ago, and some requests are rejected: try again in a few seconds."
)
NAMES = {
    Priority.AUTHENTICATED_WRITE: "Writes, authenticated",
    Priority.AUTHENTICATED_READ: "Reads, authenticated",
    Priority.ANONYMOUS_READ: "Reads, anonymous",
    Priority.ANONYMOUS_WRITE: "Writes, anonymous",
    Priority.HEAVY: "Exports, downloads, imports",
}


class Edge:
    def __init__(
        self, admission: Admission, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.admission = admission
        self.has_answers = True
        self._clock = clock
        self._rejected = 0
        self._rejected_at = -math.inf

    def check(self) -> CheckResult:
        figures = tuple(self._figures())
        self.has_answers = not response_store.is_empty()
        if self._is_rejecting():
            return CheckResult(Status.WARN, OVERLOADED, figures=figures)
        return CheckResult(Status.PASS, ACCEPTING, figures=figures)

    def _is_rejecting(self) -> bool:
        rejected = sum(self.admission.rejected.values())
        if rejected > self._rejected:
            self._rejected, self._rejected_at = rejected, self._clock()
        return self._clock() - self._rejected_at < OVERLOADED_FOR_S

    def _figures(self) -> Iterator[tuple[str, str]]:
        gate = self.admission
        limit = f"{gate.limit.current} of at most {int(gate.limit.largest)}"
        yield "Requests at a time", limit if gate.is_on else "no limit"
        for kind, name in NAMES.items():
            yield (
                name,
                f"{gate.running[kind]:,} running, {gate.queued[kind]:,} waiting, "
                f"{gate.admitted[kind]:,} admitted, {gate.rejected[kind]:,} rejected",
            )


edge = Edge(admission)


def register_all() -> None:
    register(Component("edge", "Requests", "component", edge.check))
    health_monitor.is_stopping = lambda: in_flight_responses.is_ending
    # What was cached since the last check counts as well.
    health_monitor.on_epoch = response_store.follow_epoch
    health_monitor.has_stale_responses = lambda: (
        edge.has_answers
        or len(response_store.memory) > 0
        or any(replica.stale_as_of() for replica in replicas().values())
    )
