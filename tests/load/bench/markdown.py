"""A report as Markdown."""

from collections.abc import Iterator

from tests.load.bench import grids
from tests.load.bench.grids import Grid
from tests.load.bench.results import Missing, Report, Section


def as_markdown(report: Report) -> str:
    return "\n".join(_parts(report))


def goals(report: Report) -> str:
    return "\n".join(_grid(grids.of_goals(report)))


def _parts(report: Report) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield from _grid(grids.of_machine(report))
    yield "## Goals\n"
    yield from _grid(grids.of_goals(report))
    if missing := report.missing():
        yield "## What could not be measured\n"
        yield from (f"- {what}: {why}\n" for what, why in missing)
    yield "## Methods\n"
    yield from (f"- {text}\n" for text in report.methods)
    for section in report.sections.values():
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}\n"
    yield f"{section.seconds:.0f} s; load average at the beginning: {section.load}\n"
    for piece in section.pieces:
        if not isinstance(piece, Missing):
            yield from _grid(grids.of_piece(piece))


def _grid(grid: Grid) -> Iterator[str]:
    figures = len(grid.columns) - grid.texts
    rules = [*["---"] * grid.texts, *["---:"] * figures]
    for cells in (grid.columns, rules, *grid.rows):
        yield f"| {' | '.join(cells)} |"
    yield ""
