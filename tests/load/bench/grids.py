"""A report as tables of text, for whatever writes them down."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from tests.load.bench.results import (
    RATIO,
    Curves,
    Goal,
    Outcome,
    Report,
    Row,
    Table,
    Values,
)


class Grid(NamedTuple):
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1  # columns of words, before those of figures


def short(value: float) -> str:
    if value == float("inf"):
        return "∞"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"


def of_machine(report: Report) -> Grid:
    return Grid(["machine", ""], list(report.machine.items()), texts=2)


def of_goals(report: Report) -> Grid:
    columns = ["what", "goal", "found", "spread", "result"]
    return Grid(columns, [_outcome(outcome) for outcome in report.outcomes()])


def _outcome(outcome: Outcome) -> list[str]:
    unit = "" if outcome.unit == RATIO else f" {outcome.unit}"
    least, *_, most = outcome.summary.values()
    return [
        outcome.name,
        f"{outcome.goal}{unit}",
        f"{short(outcome.value)}{unit}",
        f"{short(least)} – {short(most)}",
        verdict(outcome.goal, outcome.value),
    ]


def verdict(goal: Goal, value: float) -> str:
    if goal.is_met_by(value):
        return "met"
    return f"missed by {abs(value / goal.bound - 1):.1%}"


def of_piece(piece: Table | Curves) -> Grid:
    return _of_table(piece) if isinstance(piece, Table) else _of_curves(piece)


def _of_table(table: Table) -> Grid:
    columns = [f"{table.title}, {table.unit}", *table.statistics]
    has_goals = any(row.goal for row in table.rows)
    rows = [_row(table, row, has_goals) for row in table.rows]
    return Grid([*columns, *["goal"] * has_goals], rows)


def _row(table: Table, row: Row, has_goals: bool) -> list[str]:
    summary = table.summarize(row)
    cells = [row.name, *map(short, summary.values())]
    if row.goal:
        result = verdict(row.goal, summary[row.goal.of])
        return [*cells, f"{row.goal}: {result}"]
    return [*cells, *[""] * has_goals]


def _of_curves(curves: Curves) -> Grid:
    places = curves.places
    columns = [
        f"{curves.title}, {curves.unit}; {curves.over}:",
        *(f"{place:,}" for place in places),
    ]
    return Grid(
        columns,
        [
            [name, *(_spread(line.get(place, ())) for place in places)]
            for name, line in curves.lines.items()
        ],
    )


def _spread(values: Values) -> str:
    if len(values) < 2:
        return "".join(map(short, values))
    return f"{short(median(values))} ({short(min(values))} – {short(max(values))})"
