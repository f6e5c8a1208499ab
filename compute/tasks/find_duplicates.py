import json
from collections.abc import Iterator
from itertools import batched
from typing import Any

import orjson
from django.utils.text import Truncator
from rest_framework import serializers

from compute.registry import Parts, TaskFailed, task
from compute.task_context import TaskContext
from compute.tasks import TagField
from compute.tasks.algorithms import duplicates
from compute.tasks.algorithms.duplicates import FIELDS, Pair, Search
from items.models import Item, ItemQuerySet
from resilient_site.api.csv_escaping import render_csv

LIMIT_MAX = 100_000
# From this size on, parts are worth reading the catalogue once for each.
SPLIT_FROM = 5_000
PAIRS_SHOWN = 300
PAIRS_BATCH = 500
# Keeps the result below the size limit of a job.
SHOWN_BYTES = 200_000
DESCRIPTION_SHOWN = 200
FOUND, PAIRS = "found.json", "pairs.csv"
COLUMNS = (
    "score", "field", "first_id", "first_name", "first_description", "second_id",
    "second_name", "second_description",
)  # fmt: skip

type Text = tuple[str, str, str]  # id, name and description


class Params(serializers.Serializer[Any]):
    threshold = serializers.FloatField(
        default=0.85,
        min_value=0.5,
        max_value=1,
        help_text="The share of letters that two texts must have in common: "
        "from 0.5 to 1, which is all of them.",
    )
    field = serializers.ChoiceField(
        FIELDS,
        default="name",
        help_text="The field in which items must agree; both: in either.",
    )
    tag = TagField()
    limit = serializers.IntegerField(
        default=10_000,
        min_value=1,
        max_value=LIMIT_MAX,
        help_text="The best pairs, up to this number.",
    )


@task(params=Params, time_limit_s=3600, memory_mb=1024)
def find_duplicates(context: TaskContext, **params: Any) -> Any:
    """Find pairs of items whose names or descriptions agree, or nearly do.

    The score is the share of letters that two texts have in common, in the same order;
    case and spacing do not count. Of items with the very same text, each is paired
    with the first one only. An empty description agrees with nothing.
    """
    if context.processes > 1 and _items(params["tag"]).count() >= SPLIT_FROM:
        shares = range(context.processes)
        return Parts([params | {"part": n, "parts": context.processes} for n in shares])
    search = _search(context, **params)
    return _result(context, search.found, search.is_cut, search.compared, params)


@find_duplicates.part
def search_part(context: TaskContext, **params: Any) -> dict[str, Any]:
    search = _search(context, **params)
    with context.file(FOUND, "application/json") as file:
        file.write(json.dumps(search.found).encode())
    return {"is_cut": search.is_cut, "compared": search.compared}


@find_duplicates.merge
def merge_parts(
    context: TaskContext, parts: list[dict[str, Any]], **params: Any
) -> Any:
    contents = map(json.loads, context.part_files(FOUND))
    found = [Pair(*pair) for content in contents for pair in content]
    is_cut = any(part["is_cut"] for part in parts)
    compared = max(part["compared"] for part in parts)
    return _result(context, found, is_cut, compared, params)


def _items(tag: str) -> ItemQuerySet:
    items: ItemQuerySet = Item.objects.all()
    return items.tagged([tag]) if tag else items


def _search(context: TaskContext, *, tag: str, **which: Any) -> Search:
    search = Search(**which)
    try:
        search.run(_items(tag), context.progress)
    except MemoryError:
        raise TaskFailed(
            "There is more text than fits into memory. Choose a tag, or one field."
        ) from None
    return search


def _result(
    context: TaskContext,
    found: list[Pair],
    is_cut: bool,
    compared: int,
    params: dict[str, Any],
) -> dict[str, Any]:
    pairs = duplicates.ranked(found)
    is_cut = is_cut or len(pairs) > params["limit"]
    pairs = pairs[: params["limit"]]
    shown: list[dict[str, Any]] = []
    number, size = 0, 0
    with context.file(PAIRS, "text/csv; charset=utf-8") as file:
        file.write(render_csv([COLUMNS]))
        for chunk in _with_items(pairs):
            file.write(
                render_csv(
                    [f"{pair.score:.4f}", pair.field, *first, *second]
                    for pair, first, second in chunk
                )
            )
            for pair, first, second in chunk[: PAIRS_SHOWN - len(shown)]:
                row = {
                    "score": round(pair.score, 4),
                    "field": pair.field,
                    "first": _side(*first),
                    "second": _side(*second),
                }
                size += len(orjson.dumps(row))
                if size < SHOWN_BYTES:
                    shown.append(row)
            number += len(chunk)
            context.progress(number / len(pairs), f"Writing {number:,} pairs")
    return params | {
        "pairs": shown,
        "found": number,
        "compared": compared,
        "truncated": is_cut,
    }


def _with_items(pairs: list[Pair]) -> Iterator[list[tuple[Pair, Text, Text]]]:
    """Yield the pairs with their items, except those with an item deleted by now."""
    for chunk in batched(pairs, PAIRS_BATCH):
        ids = {item_id for pair in chunk for item_id in (pair.first, pair.second)}
        rows = Item.objects.filter(pk__in=ids).values_list("pk", "name", "description")
        texts = {row[0]: row for row in rows}
        yield [
            (pair, texts[pair.first], texts[pair.second])
            for pair in chunk
            if pair.first in texts and pair.second in texts
        ]


def _side(item_id: str, name: str, description: str) -> dict[str, str]:
    shown = Truncator(description).chars(DESCRIPTION_SHOWN)
    return {"id": item_id, "name": name, "description": shown}
