"""What the benchmarks find: tables of values by name, goals, and curves."""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import ClassVar, NamedTuple

type Values = Sequence[float]

RATIO = "ratio"
SIGNS = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


def percentile(values: Values, share: float) -> float:
    """Return the smallest value that a share (0 to 1) of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def ratios(ours: Values, theirs: Values) -> list[float]:
    """Divide round by round, as machines change from minute to minute."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


class Goal(NamedTuple):
    sign: str
    bound: float
    of: str = "median"  # one of the statistics of the table

    def is_met_by(self, value: float) -> bool:
        return SIGNS[self.sign](value, self.bound)

    def verdict(self, value: float) -> str:
        if self.is_met_by(value):
            return "met"
        return f"missed by {abs(value / self.bound - 1):.1%}"

    def __str__(self) -> str:
        of = "" if self.of == "median" else f"{self.of} "
        return f"{of}{self.sign} {self.bound:g}"


class Row(NamedTuple):
    name: str
    values: Values
    goal: Goal | None = None


@dataclass(frozen=True)
class Table:
    """Values of which each round gave one."""

    title: str
    unit: str
    rows: Sequence[Row]
    statistics: ClassVar[Mapping[str, Callable[[Values], float]]] = {
        "minimum": min,
        "median": median,
        "maximum": max,
    }

    def summarize(self, row: Row) -> dict[str, float]:
        return {name: compute(row.values) for name, compute in self.statistics.items()}


@dataclass(frozen=True)
class Distribution(Table):
    """Values of which there are many."""

    statistics: ClassVar[Mapping[str, Callable[[Values], float]]] = {
        "p50": partial(percentile, share=0.5),
        "p99": partial(percentile, share=0.99),
        "maximum": max,
    }


@dataclass(frozen=True)
class Curves:
    """Values over a quantity, by name; each place has one value of each round."""

    title: str
    over: str
    unit: str
    lines: Mapping[str, Mapping[float, Values]]


class Missing(NamedTuple):
    """What could not be measured, and why."""

    what: str
    why: str


type Piece = Table | Curves | Missing


@dataclass
class Section:
    title: str
    pieces: list[Piece] = field(default_factory=list)
    load_average: str = ""  # at the beginning
    seconds: int = 0


@dataclass
class Report:
    machine: dict[str, str]
    sections: dict[str, Section] = field(default_factory=dict)

    def pieces(self) -> list[Piece]:
        return [piece for one in self.sections.values() for piece in one.pieces]

    def missing(self) -> list[Missing]:
        return [piece for piece in self.pieces() if isinstance(piece, Missing)]

    def goals(self) -> Iterator[tuple[Table, Row]]:
        """Yield the rows with a goal, each with its table."""
        for piece in self.pieces():
            if isinstance(piece, Table):
                yield from ((piece, row) for row in piece.rows if row.goal)
