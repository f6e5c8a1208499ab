"""Template filters that format jobs and their results."""

import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import orjson
from django import template
from django.utils.formats import number_format
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from compute.duplicate_pairs import PairPage, get_page
from compute.models import Job
from compute.registry import Task
from resilient_site.api.pagination import parse_small_number

register = template.Library()

RUNNING, SUCCEEDED = Job.State.RUNNING, Job.State.SUCCEEDED

FILE_KINDS = {
    "text/csv": "CSV",
    "text/plain": "text",
    "application/json": "JSON",
    "application/x-ndjson": "NDJSON",
    "application/gzip": "gzip",
    "application/zip": "zip",
    "application/pdf": "PDF",
    "image/svg+xml": "SVG image",
    "image/png": "PNG image",
}


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
def is_in_parts(task: Task | None) -> bool:
    # Not in the template, which would call the function.
    return task is not None and task.part_function is not None


@register.filter
def run_time(job: Job) -> timedelta | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return job.finished_at - job.started_at


@register.filter
def queue_time(job: Job) -> float:
    """Return the seconds in the queue before the first attempt."""
    return (job.started_at - job.created_at).total_seconds() if job.started_at else 0


@register.filter
def retry_reasons(job: Job) -> str:
    """Return why there was more than one attempt."""
    lost = job.attempts - job.failures - (job.state in (RUNNING, SUCCEEDED))
    reasons = []
    if job.failures:
        reasons.append(f"{job.failures} failed")
    if lost > 0:
        reasons.append(f"{lost} interrupted with the worker")
    return ", ".join(reasons)


@register.filter
def approximate(seconds: int) -> str:
    """Format an estimated time, in whole minutes from 90 seconds on."""
    if seconds < 90:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    return f"{math.ceil(seconds / 60)} minutes"


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
def file_kind(content_type: str) -> str:
    kind = content_type.partition(";")[0].strip()
    return FILE_KINDS.get(kind, kind)


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
def pairs_of(job: Job, page: str | None) -> PairPage:
    return get_page(job, parse_small_number(page or "") or 1)


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

    words, others = _words(text), _words(other)
    pieces = [
        (op.tag != "equal", "".join(words[op.src_start : op.src_end]))
        for op in Indel.opcodes(words, others)
        if op.src_end > op.src_start
    ]
    # Punctuation between two marked words is marked too.
    runs: list[tuple[bool, str]] = []
    for place, (is_marked, piece) in enumerate(pieces):
        around = (*pieces[place - 1 : place], *pieces[place + 1 : place + 2])
        if len(around) == 2 and all(marked for marked, _ in around):
            is_marked = is_marked or not any(map(str.isalnum, piece))
        if runs and runs[-1][0] == is_marked:
            piece = runs.pop()[1] + piece
        runs.append((is_marked, piece))
    names = {True: tag, False: "span"}
    return format_html_join(
        "", "<{0}>{1}</{0}>", ((names[is_marked], piece) for is_marked, piece in runs)
    )


def _words(text: str) -> list[str]:
    """Split into words and the characters between them."""
    words: list[str] = []
    for letter in text:
        if words and letter.isalnum() and words[-1][-1].isalnum():
            words[-1] += letter
        else:
            words.append(letter)
    return words
