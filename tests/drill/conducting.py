"""Breaking one thing after another under load, and seeing what comes of it."""

import json
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context

from tests.drill.clients import Clients
from tests.drill.context import Context
from tests.drill.faults import Fault
from tests.drill.knowledge import Outcome
from tests.drill.objectives import Objectives, Verdict
from tests.drill.stack import Stack
from tests.drill.windows import Window

WARM_UP_S = 4.0
BEFORE_S = 2.0
AFTER_S = 1.5
# Well again is who has been answered as ever for so long.
CALM_S = 1.0
RECOVERY_MAX_S = 20.0
TICK_S = 0.05


@dataclass
class Result:
    """What came of one fault. Times are seconds from the begin of the drill."""

    name: str
    title: str
    not_run: str = ""
    began: float = 0.0
    ended: float = 0.0
    before: Window = field(default_factory=Window)
    during: Window = field(default_factory=Window)
    after: Window = field(default_factory=Window)
    noticed_s: float | None = None
    recovered_s: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

    def windows(self) -> tuple[Window, Window, Window]:
        return self.before, self.during, self.after


class Conductor:
    """Breaks the parts of one stack, and watches its clients."""

    def __init__(
        self,
        stack: Stack,
        clients: Clients,
        objectives: Objectives,
        say: Callable[[str], None],
        seconds: float | None,
    ) -> None:
        self.stack, self.clients, self.objectives = stack, clients, objectives
        self._say, self._seconds = say, seconds
        self.began = self.ended = time.monotonic()
        # From the clock of logs to that of clients.
        self._clock = time.time() - time.monotonic()

    def run(self, faults: Iterable[Fault]) -> list[Result]:
        results = []
        with ProcessPoolExecutor(1, get_context("spawn")) as generator:
            self.began = time.monotonic()
            self.clients.start()
            self._wait(WARM_UP_S)
            for fault in faults:
                if why := fault.cannot(self.stack):
                    result = Result(fault.name, fault.title, not_run=why)
                else:
                    result = self._break(fault, generator)
                results.append(result)
                self._say(line_of(result))
            self.ended = time.monotonic()
        return results

    def _break(self, fault: Fault, generator: ProcessPoolExecutor) -> Result:
        seconds = fault.seconds
        if self._seconds is not None and seconds > 1:
            seconds = self._seconds
        context = Context(self.stack, seconds, generator)
        fault.prepare(context)
        self._wait_for_calm(time.monotonic(), lambda: True)
        self._wait(max(0.0, BEFORE_S - CALM_S))
        began = time.monotonic()
        fault.begin(context)
        left = (context.whole_at or began) + seconds - time.monotonic()
        self._wait(left, lambda: fault.go_on(context))
        fault.end(context)
        ended = time.monotonic()
        recovered = self._wait_for_calm(
            ended if fault.seconds else began, lambda: fault.is_mended(context)
        )
        well = time.monotonic()
        self._wait(AFTER_S)
        seen = self.clients.since(began - BEFORE_S)
        result = Result(
            fault.name,
            fault.title,
            began=began - self.began,
            ended=ended - self.began,
            before=Window.of(one for one in seen if one.due < began),
            # Of what is over at once, it lasts until all is well again.
            during=Window.of(
                one
                for one in seen
                if began <= one.due < (ended if fault.seconds else well)
            ),
            after=Window.of(one for one in seen if one.due >= well),
            noticed_s=self._noticed(fault.noticed, context.whole_at or began),
            recovered_s=recovered,
            measured=context.measured,
        )
        result.verdict = self.objectives.judge(result)
        return result

    def _wait(self, seconds: float, go_on: Callable[[], object] = lambda: None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            go_on()
            time.sleep(min(left, TICK_S))

    def _wait_for_calm(
        self, moment: float, is_mended: Callable[[], bool]
    ) -> float | None:
        """Return how long after `moment` all was as ever; None: it has not become so.

        That is when the last client was answered who was not answered as ever.
        """
        mended = None
        while time.monotonic() < moment + RECOVERY_MAX_S:
            time.sleep(TICK_S)
            now = time.monotonic()
            if mended is None and is_mended():
                mended = now
            if mended is None or now < moment + CALM_S:
                continue
            recent = self.clients.since(now - CALM_S)
            is_calm = all(one.outcome is Outcome.OK for one in recent)
            if is_calm and self.clients.kinds <= {one.kind for one in recent}:
                since = self.clients.since(moment)
                last = [one.ended for one in since if one.outcome is not Outcome.OK]
                # To see it takes a moment, also if it was never broken.
                if mended > moment + 2 * TICK_S:
                    last.append(mended)
                return max(last, default=moment) - moment
        return None

    def _noticed(self, pattern: str, began: float) -> float | None:
        """Return when the site said so in its log, after the begin of the fault."""
        if not pattern:
            return None
        for line in self.stack.output().splitlines():
            if not re.search(pattern, line):
                continue
            if line.startswith("{"):
                logged = datetime.fromisoformat(json.loads(line)["timestamp"])
            else:  # supervisord's own
                logged = datetime.fromisoformat(line[:23].replace(",", "."))
            moment = logged.timestamp() - self._clock
            if moment >= began - 0.01:
                return max(moment - began, 0.0)
        return None


def line_of(result: Result) -> str:
    """Tell one result in a line for a terminal."""
    if result.not_run:
        return f"  –  {result.name:22} not run: {result.not_run}"
    during = result.during
    mark = "✓" if result.verdict.is_kept else "✗"
    return (
        f"  {mark}  {result.name:22} reads {during.reads_answered:7.2%}"
        f"  writes {during.writes_answered:7.2%}  p99 {during.read_p99_ms:6.0f} ms"
        f"  old {during.stale:4}  noticed {_seconds(result.noticed_s)}"
        f"  well after {_seconds(result.recovered_s)}"
        + "".join(f"\n       {miss}" for miss in result.verdict.misses)
    )


def _seconds(value: float | None) -> str:
    return "    – " if value is None else f"{value:4.1f} s"
