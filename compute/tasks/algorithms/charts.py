"""Bar charts as SVG files, readable without colour, in dark mode and in print.

Pages show them as `<img>`, which their stylesheet does not reach: the files themselves
follow the reader's choice between light and dark.
"""

import unicodedata
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from django.template.loader import render_to_string

# Narrow enough for text of readable size on a phone.
WIDTH = 440
ROW = 24
MARGIN = 6
FONT_SIZE = 13
# Mean width of a letter, in pixels.
LETTER = 0.6 * FONT_SIZE
# In letters; a longer label would leave too little for the bar.
LABEL_MAX = 22


@dataclass(frozen=True)
class Chart:
    """Bars of labels and numbers; a label without a number is a heading."""

    title: str
    summary: str
    bars: list[tuple[str, int | None]]

    @property
    def height(self) -> int:
        return max(len(self.bars), 1) * ROW + 2 * MARGIN


def draw(chart: Chart) -> bytes:
    """Return the chart as an SVG document."""
    labels = [shortened(label) for label, _ in chart.bars]
    numbers = [number or 0 for _, number in chart.bars]
    values = ["" if number is None else f"{number:,}" for _, number in chart.bars]
    places = range(MARGIN + ROW // 2, chart.height, ROW)
    left = 2 * MARGIN + round(max(map(_letters, labels), default=0) * LETTER)
    right = 2 * MARGIN + round(max(map(len, values), default=0) * LETTER)
    scale = (WIDTH - left - right) / max([1, *numbers])
    lengths = [ceil(number * scale) for number in numbers]
    context = {
        "chart": chart,
        "width": WIDTH,
        "font_size": FONT_SIZE,
        "left": left,
        "bars": list(zip(labels, values, places, lengths, strict=False)),
    }
    return render_to_string("compute/chart.svg", context).encode()


def shortened(label: str) -> str:
    """Leave out the middle of a long label, whose end may distinguish it."""
    if _letters(label) <= LABEL_MAX:
        return label
    left = _fitting(label, LABEL_MAX * 2 / 3)
    right = _fitting(label[::-1], LABEL_MAX / 3)[::-1]
    return f"{left}…{right}"


def _fitting(text: str, room: float) -> str:
    widths = accumulate(map(_letter, text))
    return text[: sum(width <= room for width in widths)]


def _letters(text: str) -> float:
    """Return the width of `text` in letters of the usual width."""
    return sum(map(_letter, text))


def _letter(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.7
    return 1.5 if letter in "MWmw@" else 1
