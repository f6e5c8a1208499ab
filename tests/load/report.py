"""What a measurement tells: on which machine, and tables in Markdown."""

import contextlib
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import psutil

# What it is, its values, and what is aimed at.
type Row = tuple[str, Sequence[float], str]
type Statistic = Callable[[Sequence[float]], float]


def say(text: str) -> None:
    """Tell who waits how far it is; the report itself goes to standard output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def machine() -> str:
    """Say in a line what this is measured on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = psutil.virtual_memory().total / 2**30
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}; "
        f"load average at the start {load}"
    )


def over_rounds(title: str, rows: Sequence[Row]) -> None:
    """Print a table of values of which each round gave one."""
    _print(title, {"minimum": min, "median": median, "maximum": max}, rows)


def over_all(title: str, rows: Sequence[Row]) -> None:
    """Print a table of values of which there are many."""
    p50, p99 = partial(percentile, share=0.5), partial(percentile, share=0.99)
    _print(title, {"p50": p50, "p99": p99, "maximum": max}, rows)


def _print(title: str, columns: Mapping[str, Statistic], rows: Sequence[Row]) -> None:
    print(f"\n| {title} | {' | '.join(columns)} | goal |")
    print("| --- | ---: | ---: | ---: | --- |")
    for name, values, goal in rows:
        cells = [_short(statistic(values)) for statistic in columns.values()]
        print(f"| {name} | {' | '.join(cells)} | {goal} |", flush=True)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide round by round, as what is near in time has the same neighbours."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so many of them do not pass."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
