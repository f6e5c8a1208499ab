"""One run of the drill on one stack, from its start to its end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.drill.clients import Clients
from tests.drill.conducting import Conductor, Result
from tests.drill.faults import Fault
from tests.drill.knowledge import Found
from tests.drill.objectives import Objectives, Verdict
from tests.drill.stack import Stack
from tests.drill.windows import Timeline


@dataclass
class Run:
    name: str
    results: list[Result]
    # What the machine lacks, and so was not there.
    lacking: list[str]
    found: Found
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
    say: Callable[[str], None],
    seconds: float | None = None,
) -> Run:
    """Break one thing after another, each for `seconds` if they are given."""
    begin = time.monotonic()
    say(f"{stack.name}: starting")
    with stack:
        stack.begin()
        knowledge = stack.knowledge()
        clients = Clients(
            stack.address, stack.paths, knowledge, stack.token, stack.session
        )
        conductor = Conductor(stack, clients, objectives, say, seconds)
        try:
            results = conductor.run(faults)
        finally:
            clients.end()
        say("  …  comparing what was confirmed with what is there")
        found = Found()
        stack.check(found, clients)
        ended = time.monotonic()
        timeline = Timeline.of(clients.seen, conductor.began, conductor.ended)
    return Run(
        stack.name, results, stack.lacking, found, objectives.judge_end(found),
        ended - begin, timeline,
    )  # fmt: skip
