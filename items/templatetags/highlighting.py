"""Filters of templates that mark what a search has found."""

from collections.abc import Sequence

from django import template
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe

from items.highlighting import LETTERS_MAX, Highlighter, Range
from items.models import Item

register = template.Library()

# Of a text in a list; as many stand before what was found further on.
EXCERPT_MAX = 260
BEFORE_MAX = 60


def _marked(text: str, ranges: Sequence[Range]) -> SafeString:
    parts, at = [], 0
    for start, end in ranges:
        parts.append(conditional_escape(text[at:start]))
        parts.append(format_html("<mark>{}</mark>", text[start:end]))
        at = end
    parts.append(conditional_escape(text[at:]))
    return mark_safe("".join(parts))  # noqa: S308 - each part is escaped


@register.filter
def marked(text: str, highlighter: Highlighter) -> SafeString:
    return _marked(text, highlighter.ranges(text))


@register.filter
def marked_id(item_id: str, highlighter: Highlighter) -> SafeString:
    return _marked(item_id, highlighter.ranges_of_id(item_id))


@register.filter
def excerpt(text: str, highlighter: Highlighter) -> SafeString:
    """Return the beginning of a text, or what stands around the first word found."""
    ranges, begin = highlighter.ranges(text[:LETTERS_MAX]), 0
    if ranges and ranges[0][1] > EXCERPT_MAX // 2:
        begin = text.rfind(" ", 0, max(0, ranges[0][0] - BEFORE_MAX)) + 1
    end = begin + EXCERPT_MAX
    within = [
        [max(start, begin) - begin, min(stop, end) - begin]
        for start, stop in ranges
        if start < end and stop > begin
    ]
    return format_html(
        "{}{}{}",
        "…" if begin else "",
        _marked(text[begin:end], within),
        "…" if len(text) > end else "",
    )


@register.filter
def other_name(item: Item, highlighter: Highlighter) -> SafeString:
    """Return the label or alias that was found where the name was not."""
    if not highlighter.ranges(item.name):
        for name in (*item.labels.values(), *item.aliases):
            if ranges := highlighter.ranges(name):
                return _marked(name, ranges)
    return mark_safe("")
