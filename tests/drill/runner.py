"""Run of the drill: injects faults under load, and measures their effect."""

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context

from tests.drill.clients import Clients
from tests.drill.context import Context
from tests.drill.faults import Fault
from tests.drill.history import Findings, Outcome
from tests.drill.objectives import Objectives, Verdict
from tests.drill.stack import Stack
from tests.drill.windows import Timeline, Window

WARM_UP_S = 4.0
BEFORE_S = 2.0
AFTER_S = 1.5
# Recovered: all requests have been answered normally for so long.
CALM_S = 1.0
RECOVERY_MAX_S = 20.0
TICK_S = 0.05


@dataclass
class Result:
    """Effect of one fault. Times are seconds from the start of the drill."""

    name: str
    title: str
    not_run: str = ""
    started: float = 0.0
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


class FaultRunner:
    """Injects faults into a stack under load."""

    def __init__(
        self,
        stack: Stack,
        clients: Clients,
        objectives: Objectives,
        print_line: Callable[[str], None],
        seconds: float | None,
    ) -> None:
        self.stack, self.clients, self.objectives = stack, clients, objectives
        self._print_line, self._seconds = print_line, seconds
        self.started = self.ended = time.monotonic()
        # Offset from the clock of logs to that of samples.
        self._clock = time.time() - time.monotonic()

    def run(self, faults: Iterable[Fault]) -> list[Result]:
        results = []
        with ProcessPoolExecutor(1, get_context("spawn")) as generator:
            self.started = time.monotonic()
            self.clients.start()
            self._wait(WARM_UP_S)
            for fault in faults:
                if why := fault.why_impossible(self.stack):
                    result = Result(fault.name, fault.title, not_run=why)
                else:
                    result = self._break(fault, generator)
                results.append(result)
                self._print_line(format_result(result))
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
        started = time.monotonic()
        fault.inject(context)
        left = (context.complete_at or started) + seconds - time.monotonic()
        self._wait(left, lambda: fault.sustain(context))
        fault.heal(context)
        ended = time.monotonic()
        recovered = self._wait_for_calm(
            ended if fault.seconds else started, lambda: fault.is_recovered(context)
        )
        well = time.monotonic()
        self._wait(AFTER_S)
        samples = self.clients.since(started - BEFORE_S)
        result = Result(
            fault.name,
            fault.title,
            started=started - self.started,
            ended=ended - self.started,
            before=Window.of(one for one in samples if one.due < started),
            # An instantaneous fault lasts until the recovery.
            during=Window.of(
                one
                for one in samples
                if started <= one.due < (ended if fault.seconds else well)
            ),
            after=Window.of(one for one in samples if one.due >= well),
            noticed_s=self._noticed(fault.log_pattern, context.complete_at or started),
            recovered_s=recovered,
            measured=context.measured,
        )
        result.verdict = self.objectives.evaluate(result)
        return result

    def _wait(
        self, seconds: float, sustain: Callable[[], object] = lambda: None
    ) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            sustain()
            time.sleep(min(left, TICK_S))

    def _wait_for_calm(
        self, moment: float, is_recovered: Callable[[], bool]
    ) -> float | None:
        """Return the time from `moment` to the recovery; None without one.

        It ends with the last request that was not answered normally.
        """
        mended = None
        while time.monotonic() < moment + RECOVERY_MAX_S:
            time.sleep(TICK_S)
            now = time.monotonic()
            if mended is None and is_recovered():
                mended = now
            if mended is None or now < moment + CALM_S:
                continue
            recent = self.clients.since(now - CALM_S)
            is_calm = all(one.outcome is Outcome.OK for one in recent)
            if is_calm and self.clients.kinds <= {one.kind for one in recent}:
                since = self.clients.since(moment)
                last = [one.ended for one in since if one.outcome is not Outcome.OK]
                # The poll itself takes a moment.
                if mended > moment + 2 * TICK_S:
                    last.append(mended)
                return max(last, default=moment) - moment
        return None

    def _noticed(self, pattern: str, started: float) -> float | None:
        """Return when the site logged the fault, in seconds after its start."""
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
            if moment >= started - 0.01:
                return max(moment - started, 0.0)
        return None


def format_result(result: Result) -> str:
    """Format a result as a line for the terminal."""
    if result.not_run:
        return f"  –  {result.name:22} not run: {result.not_run}"
    during = result.during
    mark = "✓" if result.verdict.is_kept else "✗"
    return (
        f"  {mark}  {result.name:22} reads {during.reads_answered:7.2%}"
        f"  writes {during.writes_answered:7.2%}  p99 {during.read_p99_ms:6.0f} ms"
        f"  stale {during.stale:4}  detected {_seconds(result.noticed_s)}"
        f"  recovered {_seconds(result.recovered_s)}"
        + "".join(f"\n       {miss}" for miss in result.verdict.misses)
    )


def _seconds(value: float | None) -> str:
    return "    – " if value is None else f"{value:4.1f} s"


@dataclass
class Run:
    name: str
    results: list[Result]
    # Parts that the machine lacks.
    missing: list[str]
    found: Findings
    end: Verdict
    seconds: float
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def is_kept(self) -> bool:
        ran = [result for result in self.results if not result.not_run]
        return self.end.is_kept and all(result.verdict.is_kept for result in ran)


def run(
    stack: Stack,
    faults: Sequence[Fault],
    objectives: Objectives,
    print_line: Callable[[str], None],
    seconds: float | None = None,
) -> Run:
    """Inject the faults one after another, each for `seconds` if given."""
    begin = time.monotonic()
    print_line(f"{stack.name}: starting")
    with stack:
        stack.record_start()
        history = stack.history()
        clients = Clients(
            stack.address, stack.paths, history, stack.token, stack.session
        )
        runner = FaultRunner(stack, clients, objectives, print_line, seconds)
        try:
            results = runner.run(faults)
        finally:
            clients.end()
        print_line("  …  comparing acknowledged with stored operations")
        found = Findings()
        stack.check(found, clients)
        ended = time.monotonic()
        timeline = Timeline.of(clients.samples, runner.started, runner.ended)
    return Run(
        stack.name, results, stack.missing, found, objectives.evaluate_end(found),
        ended - begin, timeline,
    )  # fmt: skip
