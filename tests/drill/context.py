"""Context of a fault: its stack, duration and state."""

from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from tests.drill.stack import ProductionStack, Stack


@dataclass
class Context:
    """Passed to the functions of a fault."""

    stack: Stack
    seconds: float
    # A process beside this one, for traffic_faults of clients.
    generator: Executor
    state: dict[str, Any] = field(default_factory=dict)
    # For the report.
    measured: dict[str, float] = field(default_factory=dict)
    # When the injection was complete, if later than its start.
    complete_at: float | None = None

    @property
    def ours(self) -> ProductionStack:
        assert isinstance(self.stack, ProductionStack)
        return self.stack
