"""Statistics of the catalogue, or of the items with one tag.

The database counts; only words are counted here, in one pass over the items that holds
one page of them and a bounded number of words in memory.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from itertools import pairwise
from typing import Any, Self

from django.db.models import Count, DateField, Exists, Max, Min, OuterRef, QuerySet
from django.db.models.functions import Length, Trunc

from items import rules
from items.imports.exporting import chunks
from items.models import Item, ItemChange, ItemQuerySet, ItemTag, Tag
from items.search import words_in

TAGS_SHOWN = 20
EDITED_SHOWN = 20
WORDS_SHOWN = 30

UNITS = ("day", "week", "month", "year")
PERIODS_MAX = 24

NAME_GROUPS = (1, 10, 20, 30, 40, 60, 80, 100, 150, rules.NAME_MAX + 1)
DESCRIPTION_GROUPS = (
    0, 1, 50, 100, 200, 500, 1_000, 2_000, 5_000, rules.DESCRIPTION_MAX + 1,
)  # fmt: skip

# Shorter words are mostly “the” and “and”; longer ones are no words of a language.
WORD_MIN, WORD_MAX = 4, 30
WORDS_KEPT = 200_000

type OnRead = Callable[[int], None]  # with the number of further items read


@dataclass(frozen=True)
class Catalogue:
    """The items that a report is about, and what belongs to them."""

    items: ItemQuerySet
    links: QuerySet[ItemTag]
    changes: QuerySet[ItemChange]

    @classmethod
    def whole(cls) -> Self:
        """Including the changes of deleted items."""
        rows = Item.objects.all(), ItemTag.objects.all(), ItemChange.objects.all()
        return cls(*rows)

    @classmethod
    def tagged(cls, tag: str) -> Self:
        items = Item.objects.tagged([tag])
        keys = items.values("pk")
        return cls(
            items,
            ItemTag.objects.filter(item__in=keys),
            ItemChange.objects.filter(item_id__in=keys),
        )

    def without_tags(self) -> int:
        links = ItemTag.objects.filter(item=OuterRef("pk"))
        return self.items.filter(~Exists(links)).count()


# --- tags


def tags(catalogue: Catalogue) -> dict[str, Any]:
    """Count the items of the most frequent tags, and the number of other tags."""
    counted = catalogue.links.values("tag").annotate(items=Count("*"))
    most = list(counted.order_by("-items", "tag")[:TAGS_SHOWN])
    names = Tag.objects.in_bulk([row["tag"] for row in most])
    number = catalogue.links.aggregate(tags=Count("tag", distinct=True))["tags"]
    return {
        "number": number,
        "others": number - len(most),
        "most": [
            {"tag": names[row["tag"]].name, "items": row["items"]}
            for row in most
            if row["tag"] in names
        ],
    }


# --- growth


def growth(catalogue: Catalogue) -> dict[str, Any]:
    """Count the items by time of creation, in up to `PERIODS_MAX` periods."""
    ends = catalogue.items.aggregate(first=Min("created_at"), last=Max("created_at"))
    if ends["first"] is None:
        return {"unit": UNITS[0], "periods": []}
    first, last = (ends[end].astimezone(UTC).date() for end in ("first", "last"))
    unit, starts = _periods(first, last)
    start = Trunc("created_at", unit, output_field=DateField(), tzinfo=UTC)
    rows = catalogue.items.annotate(start=start).values("start").order_by()
    counted = dict(rows.annotate(items=Count("*")).values_list("start", "items"))
    periods, total = [], 0
    for period in starts:
        total += (items := counted.get(period, 0))
        label, day = _period_label(period, unit), period.isoformat()
        periods.append({"start": day, "label": label, "items": items, "total": total})
    return {"unit": unit, "periods": periods}


def _periods(first: date, last: date) -> tuple[str, list[date]]:
    """Return the shortest unit that makes few enough periods, and their first days."""
    for unit in UNITS:
        starts = [_period_start(first, unit)]
        while (following := _next_period(starts[-1], unit)) <= last:
            starts.append(following)
        if len(starts) <= PERIODS_MAX:
            break
    return unit, starts


def _period_start(day: date, unit: str) -> date:
    match unit:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)
        case _:
            return day


def _next_period(start: date, unit: str) -> date:
    longest = {"day": 1, "week": 7, "month": 31, "year": 366}
    return _period_start(start + timedelta(days=longest[unit]), unit)


def _period_label(start: date, unit: str) -> str:
    formats = {"month": "%b %Y", "year": "%Y"}
    return start.strftime(formats.get(unit, "%d %b %Y")).removeprefix("0")


# --- lengths


def lengths(catalogue: Catalogue, field: str, groups: tuple[int, ...]) -> Any:
    """Count the items by the length of `field`, in groups with these lower bounds."""
    rows = catalogue.items.annotate(length=Length(field)).values("length").order_by()
    pairs = rows.annotate(items=Count("*")).values_list("length", "items")
    counted = Counter(dict(pairs))
    return {
        "longest": max(counted, default=None),
        "median": _median(counted),
        "groups": [
            {
                "label": _range(start, end - 1),
                "items": sum(items for n, items in counted.items() if start <= n < end),
            }
            for start, end in pairwise(groups)
        ],
    }


def _range(start: int, end: int) -> str:
    if end == 0:
        return "none"
    return f"{start:,}–{end:,}" if start < end else f"{start:,}"


# --- edits


def most_edited(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return the items with the most versions, of which each edit makes one."""
    edited = catalogue.items.filter(version__gt=1).order_by("-version", "pk")
    rows = edited.values_list("id", "name", "version")[:EDITED_SHOWN]
    return [{"id": pk, "name": name, "version": n} for pk, name, n in rows]


# --- words


def frequent_words(catalogue: Catalogue, on_read: OnRead) -> dict[str, Any]:
    """Return the words that occur in the names or descriptions of most items.

    Words are normalized as in the search: lower case, without accents. Memory is
    bounded: of more than `WORDS_KEPT` words, the rarest half is dropped, and counts
    from 0 if it occurs again, so that each number is too low by at most `missed`.
    """
    counted: Counter[str] = Counter()
    missed = 0
    for chunk in chunks(catalogue.items.only("search_text")):
        counted.update(word for item in chunk for word in _words(item.search_text))
        if len(counted) > WORDS_KEPT:
            middle = sorted(counted.values())[len(counted) // 2]
            missed += middle
            counted = Counter({w: n for w, n in counted.items() if n > middle})
        on_read(len(chunk))
    most = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "shortest": WORD_MIN,
        "missed": missed,
        "most": [{"word": word, "items": items} for word, items in most[:WORDS_SHOWN]],
    }


def _words(text: str) -> set[str]:
    return {
        word
        for word in words_in(text)
        if WORD_MIN <= len(word) <= WORD_MAX and not word.isdigit()
    }


def _median(counted: Mapping[int, int]) -> int | None:
    """Return the lower median of values that are counted; None of none."""
    place = (sum(counted.values()) - 1) // 2
    for value in sorted(counted):
        place -= counted[value]
        if place < 0:
            return value
    return None
