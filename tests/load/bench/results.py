"""What the benchmarks find: values by name, what is aimed at, and curves."""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import ClassVar, NamedTuple

type Values = Sequence[float]
type Statistics = Mapping[str, Callable[[Values], float]]

RATIO = "ratio"
SIGNS = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


def percentile(values: Values, share: float) -> float:
    """Return the value that so many of them do not pass."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def ratios(ours: Values, theirs: Values) -> list[float]:
    """Divide round by round, as what is near in time has the same neighbours."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


class Goal(NamedTuple):
    sign: str
    bound: float
    of: str = "median"  # one of the statistics of the table

    def is_met_by(self, value: float) -> bool:
        return SIGNS[self.sign](value, self.bound)

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
    is_drawn: bool = False
    statistics: ClassVar[Statistics] = {
        "minimum": min,
        "median": median,
        "maximum": max,
    }

    def summarize(self, row: Row) -> dict[str, float]:
        return {name: compute(row.values) for name, compute in self.statistics.items()}


@dataclass(frozen=True)
class Distribution(Table):
    """Values of which there are many."""

    statistics: ClassVar[Statistics] = {
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
    is_drawn: bool = True
    is_log: bool = False

    @property
    def places(self) -> list[float]:
        return sorted({place for line in self.lines.values() for place in line})


class Missing(NamedTuple):
    """What could not be measured, and why."""

    what: str
    why: str


type Piece = Table | Curves | Missing


class Outcome(NamedTuple):
    """What is aimed at and what came of it."""

    name: str
    unit: str
    goal: Goal
    summary: Mapping[str, float]

    @property
    def value(self) -> float:
        return self.summary[self.goal.of]

    @property
    def is_met(self) -> bool:
        return self.goal.is_met_by(self.value)


@dataclass
class Section:
    title: str
    pieces: list[Piece] = field(default_factory=list)
    load: str = ""  # the machine's, when it began
    seconds: float = 0.0

    @property
    def tables(self) -> list[Table]:
        return [piece for piece in self.pieces if isinstance(piece, Table)]

    @property
    def missing(self) -> list[Missing]:
        return [piece for piece in self.pieces if isinstance(piece, Missing)]

    def outcomes(self) -> Iterator[Outcome]:
        for table in self.tables:
            for row in table.rows:
                if row.goal:
                    name = f"{table.title}: {row.name}"
                    yield Outcome(name, table.unit, row.goal, table.summarize(row))


@dataclass
class Report:
    machine: dict[str, str]
    methods: Sequence[str]
    sections: dict[str, Section] = field(default_factory=dict)

    def outcomes(self) -> list[Outcome]:
        sections = self.sections.values()
        return [outcome for section in sections for outcome in section.outcomes()]

    def missing(self) -> list[Missing]:
        return [
            piece for section in self.sections.values() for piece in section.missing
        ]
