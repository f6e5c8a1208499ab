"""Lookup of codes and translation between collections, for many codes at once.

A code is found as it is written, and not by an alias: what a system looks up is what it
has stored. Both make a fixed number of queries, and one more for each level of
successors. Results are as REST shows them, with the cache tags of what they depend on.
"""

import math
import unicodedata
from collections.abc import Collection as Several
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

from django.db.models import F

from items import rules
from items.catalogue import CollectionNotFound, collection_tag, item_tag
from items.field_types import public_id
from items.integrity import DEPTH_MAX
from items.models import Collection, Item, ItemLink
from resilient_site.errors import NotFound

CODES_MAX = 1_000
COLUMNS = (
    "pk", "code", "name", "labels", "status", "valid_from", "valid_to",
    "replaced_by_id",
)  # fmt: skip
INVERSE = {"broadMatch": "narrowMatch", "narrowMatch": "broadMatch"}

# Columns of an item by name.
type Row = dict[str, Any]


class CodeUnknown(NotFound):
    code = "code_unknown"
    detail = "The collection has no item with this code."


class Found(NamedTuple):
    """The result for one code; None if no item has it."""

    result: dict[str, Any] | None
    tags: Several[str]


class Day(NamedTuple):
    """The day that is asked about, and for how long it is the one that is meant."""

    date: date
    lasts_s: float = math.inf

    @classmethod
    def today(cls) -> "Day":
        """Return this day (UTC), which ends at midnight."""
        now = datetime.now(UTC)
        midnight = datetime.combine(now + timedelta(days=1), datetime.min.time(), UTC)
        return cls(now.date(), (midnight - now).total_seconds())


def look_up(
    key: str, codes: Sequence[str], *, day: date, language: str = ""
) -> list[Found]:
    """Return for each code what it means on that day; raise CollectionNotFound."""
    rows = _by_code(key, codes)
    _expect_collections(key if len(rows) < len(set(codes)) else "")
    above = _successors(rows.values())
    return [
        _looked_up(rows[code], code, day, language, above)
        if code in rows
        else Found(None, [collection_tag(key)])
        for code in codes
    ]


def _looked_up(
    row: Row, code: str, day: date, language: str, above: dict[str, Row]
) -> Found:
    label, in_language = label_of(row, language)
    chain = _chain(row, above)
    successor = None
    if len(chain) > 1:
        last = chain[-1]
        successor = _named(last) | {"label": label_of(last, language)[0]}
    # Of a retired one the day on which it ended may be known: before, it was valid.
    end_of_all = date.max if row["status"] in rules.IN_USE else date.min
    start, end = row["valid_from"] or date.min, row["valid_to"] or end_of_all
    result = {
        "code": code,
        "found": True,
        "id": public_id(row["pk"]),
        "label": label,
        "language": in_language,
        "status": row["status"],
        "valid": row["status"] != rules.DRAFT and start <= day <= end,
        "valid_on": day.isoformat(),
        "successor": successor,
    }
    return Found(result, [item_tag(one["pk"]) for one in chain])


def translate(key: str, codes: Sequence[str], *, to: str) -> list[Found]:
    """Return for each code the items of the collection `to` that it is linked with.

    Links are followed in both directions: what is linked as broader is narrower from
    the other side. Raises CollectionNotFound.
    """
    rows = _by_code(key, codes)
    _expect_collections(key, to)
    mappings: dict[str, dict[tuple[str, str], Row]] = {
        row["pk"]: {} for row in rows.values()
    }
    for item_id, relation, other in _links(mappings, to):
        mappings[item_id][relation, other["pk"]] = other
    # Of `to`, as an item that is linked already may come into it.
    return [
        _translated(rows[code], code, to, mappings[rows[code]["pk"]])
        if code in rows
        else Found(None, [collection_tag(key)])
        for code in codes
    ]


def _translated(
    row: Row, code: str, to: str, mappings: dict[tuple[str, str], Row]
) -> Found:
    def order(mapping: tuple[str, str]) -> tuple[int, str]:
        return rules.RELATIONS.index(mapping[0]), _code_of(mappings[mapping])

    results = [
        {
            "relation": relation,
            **_named(other),
            "collection": to,
            "label": other["name"],
        }
        for relation, pk in sorted(mappings, key=order)
        for other in [mappings[relation, pk]]
    ]
    result = {
        "code": code,
        "found": True,
        "id": public_id(row["pk"]),
        "mappings": results,
    }
    ids = {row["pk"], *(pk for _, pk in mappings)}
    return Found(result, [collection_tag(to), *map(item_tag, ids)])


def _links(ids: Several[str], to: str) -> Iterator[tuple[str, str, Row]]:
    """Yield item, relation and the other item, of the links from and to these items."""
    for near, far, invert in (("item", "target", {}), ("target", "item", INVERSE)):
        rows = ItemLink.objects.filter(
            **{f"{near}__in": list(ids), f"{far}__collection": to}
        )
        shown = {name: F(f"{far}__{name}") for name in ("code", "name")}
        for link in rows.values(f"{near}_id", f"{far}_id", "relation", **shown):
            relation = link["relation"]
            other = {n: link[n] for n in shown} | {"pk": link[f"{far}_id"]}
            yield link[f"{near}_id"], invert.get(relation, relation), other


def _by_code(key: str, codes: Sequence[str]) -> dict[str, Row]:
    """Return the items by the code as it was given, by one query."""
    # A release before this one may have stored the first; the second has precedence.
    forms = {
        code: (clean, unicodedata.normalize("NFC", clean))
        for code in codes
        if (clean := _clean(code))
    }
    possible = set(chain.from_iterable(forms.values()))
    rows = Item.objects.with_codes(key, possible).values(*COLUMNS)
    by_code = {_code_of(row): row for row in rows}
    return {
        code: by_code[form]
        for code, both in forms.items()
        for form in both
        if form in by_code
    }


def _clean(code: str) -> str:
    """Return the code as it is stored; empty if no item can have it."""
    try:
        return rules.clean_line(code, max_length=rules.CODE_MAX, required=True)
    except ValueError:
        return ""


def _code_of(row: Row) -> str:
    # The release before this one writes none, as it is the id.
    return str(row["code"] or row["pk"])


def _named(row: Row) -> dict[str, Any]:
    return {"id": public_id(row["pk"]), "code": _code_of(row)}


def _expect_collections(*keys: str) -> None:
    wanted = {key for key in keys if key}
    if wanted and Collection.objects.filter(pk__in=wanted).count() < len(wanted):
        raise CollectionNotFound


def _successors(rows: Several[Row]) -> dict[str, Row]:
    """Return these items and all that replace them, by id."""
    known = {row["pk"]: row for row in rows}
    for _ in range(DEPTH_MAX):
        named = {row["replaced_by_id"] for row in known.values()} - {None}
        if not (missing := named - known.keys()):
            break
        found = Item.objects.filter(pk__in=missing).values(*COLUMNS)
        known |= {row["pk"]: row for row in found}
    return known


def _chain(row: Row, above: dict[str, Row]) -> list[Row]:
    """Return the item and its successors, to the last one."""
    chain = {row["pk"]: row}
    while (after := above.get(row["replaced_by_id"])) and after["pk"] not in chain:
        chain[after["pk"]] = row = after
    return list(chain.values())


def label_of(row: Row, language: str) -> tuple[str, str | None]:
    """Return the label in this language and its tag (RFC 4647, lookup), or the name."""
    parts = language.split("-")
    while parts:
        tag = "-".join(parts)
        if label := row["labels"].get(tag):
            return label, tag
        parts.pop()
        if parts and len(parts[-1]) == 1:  # begins an extension, and is no language
            parts.pop()
    return row["name"], None
