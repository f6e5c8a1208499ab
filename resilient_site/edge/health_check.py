"""How the edge of this process is: whether it lets everybody in, and what it keeps."""

import time
from collections.abc import Callable, Iterator

from resilient_site.edge.admission import Admission
from resilient_site.edge.cache.stores import copies, distant, last_known
from resilient_site.edge.request import Kind
from resilient_site.edge.wsgi_bridge import admission
from resilient_site.health.components import Finding, Part, Status, register

# After a refusal the rush may be over, or not.
RUSH_S = 10.0
WELL = "Everybody is let in."
BUSY = (
    "There is more to do than we can do at the moment. Some pages are shown as they "
    "were a while ago, and some requests are refused: try again in a few seconds."
)
NAMES = {
    Kind.SIGNED_WRITE: "Writes of people we know",
    Kind.SIGNED_READ: "Reads of people we know",
    Kind.READ: "Reads of others",
    Kind.WRITE: "Writes of others",
    Kind.HEAVY: "Exports, downloads, imports",
}


class Edge:
    def __init__(
        self, admission: Admission, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.admission = admission
        self.has_answers = True
        self._clock = clock
        self._refused = 0
        self._refused_at: float | None = None

    def check(self) -> Finding:
        busy = self._is_busy()
        figures = tuple(self._figures())
        self.has_answers = (
            len(copies) > 0 or not last_known.is_empty() or not distant.is_empty()
        )
        if busy:
            return Finding(Status.WARN, BUSY, figures=figures)
        return Finding(Status.PASS, WELL, figures=figures)

    def _is_busy(self) -> bool:
        refused = sum(self.admission.refused.values())
        if refused > self._refused:
            self._refused, self._refused_at = refused, self._clock()
        if self._refused_at is None:
            return False
        return self._clock() - self._refused_at < RUSH_S

    def _figures(self) -> Iterator[tuple[str, str]]:
        gate = self.admission
        limit = f"{gate.limit.now} of at most {int(gate.limit.largest)}"
        yield "Let in at a time", limit if gate.is_on else "no limit"
        for kind, name in NAMES.items():
            yield (
                name,
                f"{gate.running[kind]:,} running, {len(gate.waiting[kind]):,} waiting, "
                f"{gate.admitted[kind]:,} let in, {gate.refused[kind]:,} refused",
            )


edge = Edge(admission)


def register_all() -> None:
    register(Part("edge", "Requests", "component", edge.check))
