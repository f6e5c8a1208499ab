"""Template filters that format jobs and their results."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
from django import template
from django.core.paginator import Page
from django.utils.formats import number_format
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from compute.duplicate_pairs import Pair, get_page
from compute.models import Job

register = template.Library()

# Each word, and each character between them.
WORDS = re.compile(r"[^\W_]+|[\W_]")


@register.filter
def duration(seconds: float | timedelta | None) -> str:
    """Format a duration: 0.42 s, 12 s, 3 min 5 s, 1 h 12 min."""
    if seconds is None:
        return ""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if seconds < 10:
        return f"{max(seconds, 0):.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min".removesuffix(" 0 min")


@register.filter
def format_value(value: Any) -> str:
    """Format a single value."""
    if value is None or value == "" or value == []:
        return "—"
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return str(number_format(value, force_grouping=True))
    return str(value)


@register.filter
def heading(name: Any) -> str:
    """Format the name of a field as a heading."""
    text = str(name).replace("_", " ").strip()
    return text[:1].upper() + text[1:]


@register.filter
def paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if part.strip()]


@register.filter
def pretty_json(value: Any) -> str:
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=str, option=options).decode()


@register.filter
def facts(result: Any) -> list[tuple[str, Any]]:
    """Return the names and values of a plain result; for any other, nothing."""
    is_plain = isinstance(result, Mapping) and not any(
        isinstance(value, Mapping | list) for value in result.values()
    )
    return list(result.items()) if is_plain else []


@register.filter
def largest(rows: list[dict[str, int]]) -> int:
    """Return the largest number of items in `rows`: the length of a full bar."""
    return max(row["items"] for row in rows)


# --- pairs of items, and the differences of two texts


@register.simple_tag
def pairs_of(job: Job, page: str | None) -> Page[Pair]:
    return get_page(job, page)


@register.filter
def percent(share: float) -> str:
    return f"{share * 100:.1f}".removesuffix(".0") + " %"


@register.filter
def removed_from(text: str, other: str) -> SafeString:
    """Mark the words of `text` that `other` lacks with <del>."""
    return _marked(text, other, "del")


@register.filter
def added_to(text: str, other: str) -> SafeString:
    """Mark the words of `text` that `other` lacks with <ins>."""
    return _marked(text, other, "ins")


def _marked(text: str, other: str, tag: str) -> SafeString:
    from rapidfuzz.distance import Indel  # slow to import, and few pages need it

    words = WORDS.findall(text)
    edits = Indel.opcodes(words, WORDS.findall(other))
    return format_html_join(
        "",
        "<{0}>{1}</{0}>",
        (
            (
                tag if edit.tag == "delete" else "span",
                "".join(words[edit.src_start : edit.src_end]),
            )
            for edit in edits
            if edit.tag != "insert"
        ),
    )
