"""Template filters that format jobs and their results."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
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
def retry_reasons(job: Job) -> str:
    """Return why there was more than one attempt."""
    is_good = job.state in (Job.State.RUNNING, Job.State.SUCCEEDED)
    lost = job.attempts - job.failures - is_good
    reasons = []
    if job.failures:
        reasons.append(f"{job.failures} failed")
    if lost > 0:
        reasons.append(f"{lost} interrupted with the worker")
    return ", ".join(reasons)


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


# --- results of tasks without a template of their own


def _is_single(value: Any) -> bool:
    return not isinstance(value, Mapping | list)


@register.filter
def sections(result: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (heading, kind, value) of a result.

    The kind is "facts" with pairs of name and value, "table" with rows, or "json".
    """
    if not isinstance(result, Mapping):
        yield from _section("", result)
        return
    facts = {name: value for name, value in result.items() if _is_single(value)}
    if facts:
        yield "", "facts", list(facts.items())
    for name, value in result.items():
        if name not in facts:
            yield from _section(heading(name), value)


def _section(title: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    if _is_single(value):
        yield title, "facts", [(title or "Result", value)]
    elif isinstance(value, Mapping) and value and all(map(_is_single, value.values())):
        yield title, "facts", list(value.items())
    elif isinstance(value, list) and value and all(map(_is_row, value)):
        yield title, "table", value
    else:
        yield title, "json", value


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_single, value.values()))


@register.filter
def columns(rows: list[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """Return all columns in order of occurrence, and which are numbers."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [
        (name, all(map(_is_number, (row.get(name) for row in rows)))) for name in names
    ]


@register.filter
def cells(
    row: Mapping[str, Any], named: list[tuple[str, bool]]
) -> list[tuple[Any, bool]]:
    return [(row.get(name), is_number) for name, is_number in named]


def _is_number(value: Any) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool)
    )


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
    edits = Indel.editops(words, WORDS.findall(other))
    changed = {edit.src_pos for edit in edits if edit.tag == "delete"}
    runs = _runs((place in changed, word) for place, word in enumerate(words))
    # Punctuation between two marked runs is marked too.
    last = len(runs) - 1
    runs = _runs(
        (is_marked or (0 < place < last and not any(map(str.isalnum, piece))), piece)
        for place, (is_marked, piece) in enumerate(runs)
    )
    return format_html_join(
        "", "<{0}>{1}</{0}>", ((tag if marked else "span", run) for marked, run in runs)
    )


def _runs(pieces: Iterable[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Join the neighbours that are marked alike."""
    return [
        (is_marked, "".join(piece for _, piece in run))
        for is_marked, run in groupby(pieces, key=itemgetter(0))
    ]
