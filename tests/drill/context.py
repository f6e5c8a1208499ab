"""What a fault is told, and what it tells."""

from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from tests.drill.stack import Ours, Stack


@dataclass
class Context:
    """The stack that a fault breaks, for how long, and what it notes meanwhile."""

    stack: Stack
    seconds: float
    # A process beside this one, for crowds of clients.
    generator: Executor
    notes: dict[str, Any] = field(default_factory=dict)
    # For the report.
    measured: dict[str, float] = field(default_factory=dict)
    # When all of the fault was there, if that was later than its begin.
    whole_at: float | None = None

    @property
    def ours(self) -> Ours:
        assert isinstance(self.stack, Ours)
        return self.stack
