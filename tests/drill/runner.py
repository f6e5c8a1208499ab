"""Run of the drill: injects faults under load, and measures their effect."""

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context

from tests.drill.clients import READS_PER_S, DrillClients
from tests.drill.faults import Context, Fault
from tests.drill.history import Findings, Outcome
from tests.drill.objectives import Objectives
from tests.drill.stack import Stack
from tests.drill.windows import Window, milliseconds, rates_of
from tests.private_server import wait_for

WARM_UP_S = 4.0
# The load is such that 95 % of reads take at most so long without a fault. A machine
# that is busy with the load alone would tell nothing about the faults.
LOADS = (1.0, 0.5, 0.25)
CALM_P95_MS = 50
FIT_S = 4.0
BEFORE_S = 2.0
# Recovered: all requests have been answered normally for so long.
CALM_S = 1.0
RECOVERY_MAX_S = 20.0
# For so much longer a fault lasts at most, until clients have met what it shows.
SHOWN_MAX_S = 10.0
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
    noticed_s: float | None = None
    recovered_s: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    # Objectives that are missed, as sentences.
    misses: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Format it for the terminal."""
        if self.not_run:
            return f"  –  {self.name:22} not run: {self.not_run}"
        during = self.during
        return (
            f"  {'✗' if self.misses else '✓'}  {self.name:22}"
            f" reads {during.reads_answered:7.2%}"
            f"  writes {during.writes_answered:7.2%}  p99 {during.read_p99_ms:6.0f} ms"
            f"  stale {during.stale:4}  detected {_seconds(self.noticed_s)}"
            f"  recovered {_seconds(self.recovered_s)}"
            + "".join(f"\n       {miss}" for miss in self.misses)
        )


def _seconds(value: float | None) -> str:
    return "    – " if value is None else f"{value:4.1f} s"


@dataclass
class Run:
    """Results of all faults in one stack."""

    name: str
    results: list[Result]
    # Parts that the machine lacks.
    missing: list[str]
    found: Findings
    # Objectives of the final check that are missed, as sentences.
    misses: list[str]
    seconds: float
    reads_per_s: float
    # Requests a second by kind and outcome, over time.
    rates: dict[str, dict[str, list[float]]]

    @property
    def is_kept(self) -> bool:
        return not self.misses and not any(result.misses for result in self.results)


def run(
    stack: Stack,
    faults: Sequence[Fault],
    objectives: Objectives,
    seconds: float | None = None,
) -> Run:
    """Inject the faults one after another, each for `seconds` if given."""
    begin = time.monotonic()
    print(f"{stack.name}: starting", flush=True)
    with stack.running():
        clients = DrillClients(
            stack.host, stack.port, stack.history(), stack.token, stack.session
        )
        runner = FaultRunner(stack, clients, objectives, seconds)
        started = time.monotonic()
        clients.start()
        try:
            results = runner.run(faults)
            ended = time.monotonic()
        finally:
            clients.end()
        print("  …  comparing acknowledged with stored operations", flush=True)
        found = Findings()
        stack.check(found, clients)
        seconds = time.monotonic() - begin
    return Run(
        name=stack.name,
        results=results,
        missing=stack.missing,
        found=found,
        misses=objectives.misses_at_the_end(found.counts()),
        seconds=seconds,
        reads_per_s=READS_PER_S * clients.load,
        rates=rates_of(clients.samples, started, ended),
    )


class FaultRunner:
    """Injects faults into a stack under load."""

    def __init__(
        self,
        stack: Stack,
        clients: DrillClients,
        objectives: Objectives,
        seconds: float | None,
    ) -> None:
        self.stack, self.clients, self.objectives = stack, clients, objectives
        self.seconds = seconds
        self.started = time.monotonic()
        # Offset from the clock of logs to that of samples.
        self._clock = time.time() - time.monotonic()

    def run(self, faults: Iterable[Fault]) -> list[Result]:
        results = []
        with ProcessPoolExecutor(1, get_context("spawn")) as generator:
            self._wait(WARM_UP_S)
            self._fit_load()
            for fault in faults:
                if not fault.is_possible(self.stack):
                    why = f"it needs {fault.needs}"
                    result = Result(fault.name, fault.title, not_run=why)
                else:
                    result = self._break(fault, generator)
                    result.misses = self.objectives.misses(result)
                results.append(result)
                print(result.line(), flush=True)
        return results

    def _fit_load(self) -> None:
        for load in LOADS:
            self.clients.load = load
            started = time.monotonic()
            self._wait(FIT_S)
            seen = self.clients.since(started)
            p95 = milliseconds([one for one in seen if one.kind == "read"], 0.95)
            if p95 <= CALM_P95_MS:
                break
        rate = f"{READS_PER_S * load:.0f} reads a second"
        print(f"  …  {rate}, 95 % of them in {p95:.0f} ms without a fault", flush=True)

    def _break(self, fault: Fault, generator: ProcessPoolExecutor) -> Result:
        seconds = fault.seconds
        if self.seconds is not None and seconds > 1:
            seconds = self.seconds
        context = Context(self.stack, self.clients, seconds, generator)
        fault.prepare(context)
        self._wait_for_calm(time.monotonic(), lambda: True)
        self._wait(BEFORE_S - CALM_S)
        started = time.monotonic()
        with contextmanager(fault.inject)(context):
            left = (context.complete_at or started) + seconds - time.monotonic()
            self._wait(left, context.sustain)
            self._wait_until_shown(fault, started)
        ended = time.monotonic()
        recovered = self._wait_for_calm(
            ended if fault.seconds else started, context.is_recovered
        )
        calm_at = time.monotonic()
        fault.clean_up(context)
        samples = self.clients.since(started - BEFORE_S)
        # An instantaneous fault lasts until the recovery.
        end = ended if fault.seconds else calm_at
        return Result(
            fault.name,
            fault.title,
            started=started - self.started,
            ended=ended - self.started,
            before=Window.from_samples(one for one in samples if one.due < started),
            during=Window.from_samples(
                one for one in samples if started <= one.due < end
            ),
            noticed_s=self._find_detection(
                fault.log_pattern, context.complete_at or started
            ),
            recovered_s=recovered,
            measured=context.measured,
        )

    def _wait(
        self, seconds: float, sustain: Callable[[], object] = lambda: None
    ) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            sustain()
            time.sleep(min(left, TICK_S))

    def _wait_until_shown(self, fault: Fault, started: float) -> None:
        def is_shown() -> bool:
            seen = self.clients.since(started)
            return fault.shows <= {(one.kind, one.outcome) for one in seen}

        with suppress(TimeoutError):  # a mechanism may be off
            wait_for(is_shown, SHOWN_MAX_S)

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
            if is_calm and {"read", "write"} <= {one.kind for one in recent}:
                since = self.clients.since(moment)
                last = [one.ended for one in since if one.outcome is not Outcome.OK]
                # The poll itself takes a moment.
                if mended > moment + 2 * TICK_S:
                    last.append(mended)
                return max(last, default=moment) - moment
        return None

    def _find_detection(self, pattern: str, started: float) -> float | None:
        """Return when the site logged the fault, in seconds after its start."""
        if not pattern:
            return None
        for line in self.stack.output().splitlines():
            if not re.search(pattern, line):
                continue
            logged = datetime.fromisoformat(json.loads(line)["timestamp"])
            moment = logged.timestamp() - self._clock
            if moment >= started - 0.01:
                return max(moment - started, 0.0)
        return None
