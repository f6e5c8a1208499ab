"""Report as one HTML page with its plots."""

from pathlib import Path
from typing import Any

from django.template import Context, Engine
from django.utils.safestring import mark_safe

from tests.load.bench import grids, plots
from tests.load.bench.results import Missing, Report, Section

TEMPLATE = Path(__file__).with_name("page.html")


def as_html(report: Report) -> str:
    template = Engine().from_string(TEMPLATE.read_text())
    context = {
        "machine": grids.of_machine(report),
        "goals": grids.of_goals(report),
        "missing": report.missing(),
        "methods": report.methods,
        "sections": [_section(section) for section in report.sections.values()],
    }
    return template.render(Context(context))


def _section(section: Section) -> dict[str, Any]:
    pieces = [piece for piece in section.pieces if not isinstance(piece, Missing)]
    return {
        "title": section.title,
        "seconds": f"{section.seconds:.0f}",
        "load": section.load,
        "pieces": [
            # Drawn here.
            (mark_safe(plots.drawn(piece)), grids.of_piece(piece))  # noqa: S308
            for piece in pieces
        ],
    }
