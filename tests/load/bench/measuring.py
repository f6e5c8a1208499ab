"""Tools and scale of the measurements, and the order of turns."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

from tests.load.bench.catalogue import Catalogue
from tests.load.remote_process import RemoteProcess
from tests.load.testbed import Testbed


@dataclass(frozen=True)
class Scale:
    """Scale of the measurements."""

    rounds: int = 5
    turn_s: float = 2.0  # of one of those that are compared, in a round
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    requests: int = 15  # in a round, where the cost of one response is measured
    imported: int = 50_000
    changed: int = 200_000
    heavy: int = 800_000_000
    delays: int = 40
    loads: tuple[float, ...] = (1, 2, 3, 5)
    load_s: float = 3.0

    @property
    def few_rounds(self) -> int:
        """Rounds of slow measurements."""
        return (self.rounds + 1) // 2


QUICK = Scale(
    rounds=2,
    turn_s=1.0,
    sizes=(1_000, 10_000, 30_000),
    requests=5,
    imported=10_000,
    changed=20_000,
    heavy=200_000_000,
    delays=15,
    loads=(1, 5),
    load_s=2.0,
)


@dataclass
class Bench:
    testbed: Testbed
    generator: RemoteProcess
    scale: Scale
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The growing catalogue, shared by sections."""
        return Catalogue(self.testbed, self.stack)


def print_progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def in_turns[T](
    rounds: int, turns: Mapping[str, Callable[[], T]]
) -> dict[str, list[T]]:
    """Run each turn in each round, in alternating order."""
    values: dict[str, list[T]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(rounds):
        for name in names if number % 2 else names[::-1]:
            values[name].append(turns[name]())
    return values
