"""What was measured as pictures (SVG), which can be distinguished without colours."""

import io
import math
from html import escape
from itertools import cycle
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.load.bench.results import Curves, Distribution, Table, percentile

mpl.use("svg")
mpl.rcParams |= {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
WIDTH = 8.0
STYLES = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")
# Where the line of a latency has its marks: as far apart as they are rare.
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)
NAMED = (0.5, 0.9, 0.99, 0.999)


def draw(piece: Table | Curves) -> str:
    """Return an SVG element; "" if the piece is not to be drawn."""
    if not piece.is_drawn:
        return ""
    is_bars = isinstance(piece, Table) and not isinstance(piece, Distribution)
    height = 1.0 + 0.4 * len(piece.rows) if is_bars else 4.0
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(piece.title, loc="left")
    if is_bars:
        _draw_bars(axes, piece)
    else:
        (_draw_curves if isinstance(piece, Curves) else _draw_latencies)(axes, piece)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return as_svg(figure, piece.title)


def as_svg(figure: Figure, title: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    name = f'<svg role="img" aria-label="{escape(title)}" '
    return text[text.index("<svg") :].replace("<svg ", name, 1)


def _draw_bars(axes: Axes, table: Table) -> None:
    """One bar for each row, with the least and the most of its rounds."""
    for place, row in enumerate(table.rows):
        middle, least, most = median(row.values), min(row.values), max(row.values)
        axes.barh(
            place, middle, xerr=[[middle - least], [most - middle]],
            color="C0" if place == 0 else "white", edgecolor="black", capsize=4,
        )  # fmt: skip
        label = f"  {middle:,.0f}" if middle >= 100 else f"  {middle:.2f}"
        axes.text(most, place, label, va="center")
    axes.set_yticks(range(len(table.rows)), [row.name for row in table.rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{table.unit} (median, minimum to maximum)")


def _draw_latencies(axes: Axes, table: Distribution) -> None:
    for row, style in zip(table.rows, cycle(STYLES), strict=False):
        # As many as there are values for, and none that is infinite.
        shares = [one for one in SHARES if len(row.values) * (1 - one) >= 1]
        points = {_rarity(one): percentile(row.values, one) for one in shares}
        points = {x: y for x, y in points.items() if math.isfinite(y)}
        axes.plot([*points], [*points.values()], style, label=row.name)
    axes.set_xticks([*map(_rarity, NAMED)], [f"{share * 100:g}" for share in NAMED])
    axes.set_xlabel("percentile")
    axes.set_yscale("log")
    axes.set_ylabel(table.unit)


def _rarity(share: float) -> float:
    return -math.log10(1 - share)


def _draw_curves(axes: Axes, curves: Curves) -> None:
    for (name, line), style in zip(curves.lines.items(), cycle(STYLES), strict=False):
        places, middles, spreads = [], [], []
        for place, values in sorted(line.items()):
            middle = median(values)
            if math.isfinite(middle):
                most = max(value for value in values if math.isfinite(value))
                places.append(place)
                middles.append(middle)
                spreads.append((middle - min(values), most - middle))
        if places:
            spread = list(zip(*spreads, strict=True))
            axes.errorbar(places, middles, spread, fmt=style, capsize=3, label=name)
    if curves.is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(curves.over)
    axes.set_ylabel(curves.unit)
