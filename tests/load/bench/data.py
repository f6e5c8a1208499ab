"""A report as JSON."""

import json
import math
from typing import Any

from tests.load.bench.results import (
    Curves,
    Distribution,
    Missing,
    Piece,
    Report,
    Section,
    Table,
    Values,
    percentile,
)

SHARES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)


def as_json(report: Report) -> str:
    document = {
        "machine": report.machine,
        "methods": report.methods,
        "goals": [
            {
                "what": outcome.name,
                "unit": outcome.unit,
                "goal": str(outcome.goal),
                "found": _number(outcome.value),
                "is_met": outcome.is_met,
            }
            for outcome in report.outcomes()
        ],
        "sections": {
            name: _section(section) for name, section in report.sections.items()
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "seconds": round(section.seconds),
        "load_average": section.load,
        "measured": [_piece(piece) for piece in section.pieces],
    }


def _piece(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Missing):
        return {"missing": piece.what, "why": piece.why}
    document: dict[str, Any] = {"title": piece.title, "unit": piece.unit}
    if isinstance(piece, Curves):
        lines = {
            name: {f"{place:g}": _numbers(values) for place, values in line.items()}
            for name, line in piece.lines.items()
        }
        return document | {"over": piece.over, "lines": lines}
    return document | {"rows": _rows(piece)}


def _rows(table: Table) -> list[dict[str, Any]]:
    rows = []
    for row in table.rows:
        statistics = {
            name: _number(value) for name, value in table.summarize(row).items()
        }
        document = {"name": row.name, "goal": row.goal and str(row.goal)} | statistics
        if isinstance(table, Distribution):
            document["number"] = len(row.values)
            document["percentiles"] = _percentiles(row.values)
        else:
            document["rounds"] = _numbers(row.values)
        rows.append(document)
    return rows


def _percentiles(values: Values) -> dict[str, float | None]:
    return {f"{share:.1%}": _number(percentile(values, share)) for share in SHARES}


def _numbers(values: Values) -> list[float | None]:
    return list(map(_number, values))


def _number(value: float) -> float | None:
    """Return five digits of it; JSON has no infinity."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
