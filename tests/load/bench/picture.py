"""The picture that the report begins with: this site, its peers, and the limit."""

from collections.abc import Iterator
from html import escape
from statistics import median

from tests.load.bench.peers import BARE, OURS
from tests.load.bench.report import short
from tests.load.bench.results import Report, Table

RATES = "responses a second"
LIMIT = (BARE,)
WIDTH, LABELS, BAR, GAP, HEAD = 940, 350, 16, 6, 30
COLOURS = {"ours": "#1d6fd8", "limit": "#c7cdd6", "peer": "#8a94a3"}


def draw(report: Report) -> str:
    """Return an SVG: for each comparison the rates of all, to the scale of its own."""
    parts, y = [], 8
    for table in _comparisons(report):
        parts.append(_text(8, y + 18, table.title, weight="bold"))
        y += HEAD
        longest = max(median(row.values) for row in table.rows)
        for row in table.rows:
            rate = median(row.values)
            kind = _kind_of(row.name)
            width = max(1, round(rate / longest * (WIDTH - LABELS - 90)))
            bar = f'x="{LABELS}" y="{y}" width="{width}" height="{BAR}"'
            parts.append(f'<rect {bar} fill="{COLOURS[kind]}"/>')
            weight = "bold" if kind == "ours" else "normal"
            parts.append(_text(LABELS - 8, y + 13, row.name, weight, anchor="end"))
            parts.append(_text(LABELS + width + 6, y + 13, short(rate), weight))
            y += BAR + GAP
        y += 10
    # A background of its own, as pages may be dark.
    size = f'width="{WIDTH}" height="{y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
        f'font-size="13"><title>Responses a second</title>'
        f'<rect {size} fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _comparisons(report: Report) -> Iterator[Table]:
    for piece in report.pieces():
        if isinstance(piece, Table) and piece.unit == RATES:
            names = {row.name for row in piece.rows}
            if OURS in names and len(names) > 1:
                yield piece


def _kind_of(name: str) -> str:
    if name == OURS:
        return "ours"
    return "limit" if name in LIMIT else "peer"


def _text(
    x: float, y: float, text: str, weight: str = "normal", anchor: str = "start"
) -> str:
    place = f'x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="#1b2430">{escape(text)}</text>'
