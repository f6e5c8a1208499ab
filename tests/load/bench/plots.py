"""What was measured as pictures (SVG), which can be distinguished without colours."""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from html import escape
from itertools import cycle
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.load.bench.grids import short
from tests.load.bench.results import Curves, Distribution, Row, Table, percentile

WIDTH = 8.0
HATCHES = ("/", "", "x", "\\", "+", "-")
STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"),
          ("X", "-."), ("*", ":"))  # fmt: skip
# Where the line of a latency has its marks: as far apart as they are rare.
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)
NAMED = (0.5, 0.9, 0.99, 0.999)
SETTINGS: Mapping[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Of neither when nor by what.
METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def drawn(piece: Table | Curves) -> str:
    """Return it as an SVG element; nothing if it is not to be drawn."""
    if not piece.is_drawn:
        return ""
    with mpl.rc_context({**SETTINGS, "svg.hashsalt": f"{piece.title}, {piece.unit}"}):
        if isinstance(piece, Curves):
            return _svg(piece.title, 4.0, lambda axes: _curves(axes, piece))
        if isinstance(piece, Distribution):
            return _svg(piece.title, 4.0, lambda axes: _latencies(axes, piece))
        height = 1.0 + 0.4 * len(piece.rows)
        return _svg(piece.title, height, lambda axes: _bars(axes, piece))


def _svg(title: str, height: float, draw: Callable[[Axes], None]) -> str:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    draw(axes)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=METADATA, transparent=True)
    text = file.getvalue()
    name = f'<svg role="img" aria-label="{escape(title)}" '
    return text[text.index("<svg") :].replace("<svg ", name, 1)


def _bars(axes: Axes, table: Table) -> None:
    """One bar for each row, with the least and the most of its rounds."""
    hatches = cycle(HATCHES)
    for place, row in enumerate(table.rows):
        middle, least, most = median(row.values), min(row.values), max(row.values)
        axes.barh(
            place,
            middle,
            xerr=[[middle - least], [most - middle]],
            hatch=next(hatches),
            color="C0" if place == 0 else "white",
            edgecolor="black",
            capsize=4,
        )
        axes.annotate(
            short(middle),
            (most, place),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(table.rows)), [row.name for row in table.rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{table.unit} (median, minimum to maximum)")


def _latencies(axes: Axes, table: Distribution) -> None:
    for row, (marker, line) in zip(table.rows, cycle(STYLES), strict=False):
        shares, values = _quantiles(row)
        rarities = [-math.log10(1 - share) for share in shares]
        axes.plot(rarities, values, marker=marker, linestyle=line, label=row.name)
    axes.set_xticks(
        [-math.log10(1 - share) for share in NAMED],
        [f"{share * 100:g}" for share in NAMED],
    )
    axes.set_xlabel("percentile")
    axes.set_yscale("log")
    axes.set_ylabel(table.unit)
    _finish(axes)


def _quantiles(row: Row) -> tuple[list[float], list[float]]:
    """Return as many as there are values for, and none that lasts for ever."""
    found = [
        (share, percentile(row.values, share))
        for share in SHARES
        if len(row.values) * (1 - share) >= 1
    ]
    found = [(share, value) for share, value in found if math.isfinite(value)]
    return [share for share, _ in found], [value for _, value in found]


def _curves(axes: Axes, curves: Curves) -> None:
    for (name, line), (marker, style) in zip(
        curves.lines.items(), cycle(STYLES), strict=False
    ):
        if not (points := list(_points(line))):
            continue
        places, middles, least, most = zip(*points, strict=True)
        axes.errorbar(
            places, middles, yerr=[least, most],
            marker=marker, linestyle=style, capsize=3, label=name,
        )  # fmt: skip
    if curves.is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(curves.over)
    axes.set_ylabel(curves.unit)
    _finish(axes)


def _points(
    line: Mapping[float, Any],
) -> Iterator[tuple[float, float, float, float]]:
    for place, values in sorted(line.items()):
        middle = median(values)
        if math.isfinite(middle):
            most = max(value for value in values if math.isfinite(value))
            yield place, middle, middle - min(values), most - middle


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
