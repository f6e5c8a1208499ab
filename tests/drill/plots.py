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
    timeline = run.timeline
    width = max(WIDTH_MIN, (timeline.at_s[-1] if timeline.at_s else 0) * WIDTH_PER_S)
    figure = Figure(figsize=(width, 7), layout="constrained")
    reads, writes, latency = figure.subplots(3, sharex=True, height_ratios=(3, 2, 3))
    for axes, kind in ((reads, "read"), (writes, "write")):
        _draw_rates(axes, timeline.at_s, timeline.rates[kind])
        axes.set_ylabel(f"{kind}s a second")
    _draw_latency(latency, run)
    _shade(run, reads, writes, latency)
    reads.legend(loc="lower left", ncols=4, frameon=False, bbox_to_anchor=(0, 1.12))
    latency.set_xlabel("seconds from the start")
    latency.set_xlim(0, timeline.at_s[-1] if timeline.at_s else 1)
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


def _draw_latency(axes: Axes, run: Run) -> None:
    for kind, color in LINES.items():
        for name, style in (("p50", "-"), ("p99", ":")):
            values = [
                float("nan") if value is None else value
                for value in run.timeline.latencies[f"{kind} {name}"]
            ]
            axes.plot(run.timeline.at_s, values, style, color=color, lw=1.4,
                      label=f"{kind}s {name}")  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper left", ncols=4, frameon=False)


def _shade(run: Run, *all_axes: Axes) -> None:
    """Shade the time of each fault."""
    for number, result in enumerate(run.results, start=1):
        if result.not_run:
            continue
        for axes in all_axes:
            end = max(result.ended, result.started + 0.3)
            axes.axvspan(result.started, end, color="#e3e3e3", lw=0, zorder=0)
        top = all_axes[0]
        top.annotate(
            f"{number}", (result.started, 1.0), xycoords=("data", "axes fraction"),
            xytext=(1, 2), textcoords="offset points",
        )  # fmt: skip
