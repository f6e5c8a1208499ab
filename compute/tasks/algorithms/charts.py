"""Bar charts as SVG files, readable without colour, in dark mode and in print.

Pages show them as `<img>`, which their stylesheet does not reach: the files themselves
follow the reader's choice between light and dark.
"""

import unicodedata
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

# Narrow enough for text of readable size on a phone.
WIDTH = 440
ROW = 24
MARGIN = 6
FONT_SIZE = 13
# Mean width of a letter, relative to the font size.
LETTER = 0.6
# A longer label would leave too little for the bar.
LABEL_MAX = 22

# No CSS variables: renderers for print do not support them.
STYLE = f"""
:root {{ color-scheme: light dark; }}
text {{ font-family: system-ui, sans-serif; font-size: {FONT_SIZE}px; fill: #1b2325; }}
.background {{ fill: none; }}
.rect {{ fill: #0f5f5a; }}
.axis text {{ text-anchor: end; }}
.axis text.major {{ font-weight: bold; }}
.axis .line {{ display: none; }}
text.value {{ text-anchor: start; font-variant-numeric: tabular-nums; }}
text.no_data {{ text-anchor: middle; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6e9e6; }}
  .rect {{ fill: #82d3c7; }}
}}
"""


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
    from pygal import HorizontalBar  # type: ignore[import-untyped]
    from pygal.style import Style  # type: ignore[import-untyped]

    bars = [(shortened(label), number) for label, number in chart.bars]
    bars.reverse()  # pygal draws the first one at the bottom
    drawn = HorizontalBar(
        style=Style(label_font_size=FONT_SIZE, value_font_size=FONT_SIZE),
        width=WIDTH,
        height=chart.height,
        explicit_size=True,
        margin=MARGIN,
        margin_left=_room_for_labels(bars),
        margin_right=_room_for_number(bars),
        x_labels=[label for label, _ in bars],
        x_labels_major=[label for label, number in bars if number is None],
        show_x_labels=False,
        show_legend=False,
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: f"{value:,}",
        no_data_text="There is nothing to show.",
        no_prefix=True,
        css=[],
        js=[],
    )
    drawn.add("", [number for _, number in bars])
    drawn.add_xml_filter(lambda root: _cleaned(root, chart))
    return bytes(drawn.render())


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


def _room_for_labels(bars: list[tuple[str, int | None]]) -> int:
    """Return the room that labels need beyond the width that pygal assumes."""
    widest = max((_letters(label) for label, _ in bars), default=0)
    longest = max((len(label) for label, _ in bars), default=0)
    return MARGIN + round((widest - longest) * FONT_SIZE * LETTER)


def _room_for_number(bars: list[tuple[str, int | None]]) -> int:
    longest = max((len(f"{number or 0:,}") for _, number in bars), default=0)
    return MARGIN + round(longest * FONT_SIZE * LETTER)


def _cleaned(root: Any, chart: Chart) -> Any:
    """Remove what is not drawn, such as scripts and references to other files."""
    del root.attrib["id"]
    style = root.find("defs/style")
    style.text = STYLE
    for node in list(root.iter()):
        for child in list(node):
            if not _is_drawn(child):
                node.remove(child)
    for place, (tag, text) in enumerate(
        [("title", chart.title), ("desc", chart.summary)]
    ):
        node = root.makeelement(tag, {})
        node.text = text
        root.insert(place, node)
    root.set("role", "img")
    return root


def _is_drawn(node: Any) -> bool:
    # The tag of a comment is a function.
    return (
        isinstance(node.tag, str)
        and node.tag not in ("script", "title", "desc")
        and "tooltip" not in node.get("class", "").split()
    )
