"""Plots of a run over time as SVG, readable without colour."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.drill.history import Outcome
from tests.drill.runner import Run
from tests.load.bench.plots import as_svg

WIDTH_PER_S, WIDTH_MIN = 0.07, 9.0
# Stacked layers from below, with colour and hatch.
SHOWN = (
    ("answered", (Outcome.OK,), "#3b7ea1", ""),
    ("stale, marked", (Outcome.STALE,), "#f0c04f", "//"),
    ("rejected", (Outcome.REJECTED, Outcome.UNREAD), "#c9c9c9", ".."),
    ("failed or wrong", (Outcome.FAILED, Outcome.WRONG), "#b3282d", "xx"),
)
LINES = {"read": "#3b7ea1", "write": "#1d6b42"}


def over_time(run: Run) -> str:
    """Plot rates and latencies over time, with the faults shaded."""
    at_s = run.timeline.at_s
    width = max(WIDTH_MIN, at_s[-1] * WIDTH_PER_S)
    figure = Figure(figsize=(width, 7), layout="constrained")
    reads, writes, latency = figure.subplots(3, sharex=True, height_ratios=(3, 2, 3))
    for axes, kind in ((reads, "read"), (writes, "write")):
        _draw_rates(axes, at_s, run.timeline.rates[kind])
        axes.set_ylabel(f"{kind}s a second")
        for name, style in (("p50", "-"), ("p99", ":")):
            latency.plot(
                at_s, run.timeline.latencies[f"{kind} {name}"], style,
                color=LINES[kind], lw=1.4, label=f"{kind}s {name}",
            )  # fmt: skip
    reads.legend(loc="lower left", ncols=4, frameon=False, bbox_to_anchor=(0, 1.12))
    latency.set_yscale("log")
    latency.set_ylabel("milliseconds")
    latency.yaxis.set_major_formatter("{x:g}")
    latency.legend(loc="upper left", ncols=4, frameon=False)
    latency.set_xlabel("seconds from the start")
    latency.set_xlim(0, at_s[-1])
    for number, result in enumerate(run.results, start=1):
        if not result.not_run:
            end = max(result.ended, result.started + 0.3)
            for axes in (reads, writes, latency):
                axes.axvspan(result.started, end, color="#e3e3e3", lw=0, zorder=0)
            reads.annotate(
                f"{number}", (result.started, 1.0), xycoords=("data", "axes fraction"),
                xytext=(1, 2), textcoords="offset points",
            )  # fmt: skip
    return as_svg(figure, "Reads and writes a second, and their latencies, over time")


def _draw_rates(axes: Axes, at: Sequence[float], rates: dict[str, list[float]]) -> None:
    layers = [
        [sum(values) for values in zip(*(rates[str(o)] for o in outcomes), strict=True)]
        for _, outcomes, _, _ in SHOWN
    ]
    names, _, colors, hatches = zip(*SHOWN, strict=True)
    axes.stackplot(at, layers, labels=names, colors=colors, hatch=hatches, lw=0.3,
                   edgecolor="#333333")  # fmt: skip
    axes.set_ylim(bottom=0)
