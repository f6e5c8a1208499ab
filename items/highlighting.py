"""Which parts of an item a search has found, as offsets into the texts as they are.

The search compares folded texts, in which letters are added, dropped and exchanged
(ß is ss). A text is folded in pieces here that folding does not connect, so that it is
known where each folded letter comes from.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from items.fields import SEARCHED_FIELDS
from items.models import Collection, Item
from items.search import fold, is_found_inside, search_words

# Of each item so much is looked at, in the order of the fields: bounds a page's work.
LETTERS_MAX = 4_000

type Range = list[int]


class Folded(NamedTuple):
    """A folded text; where in the original each of its letters begins and ends."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


@lru_cache(4096)
def _continues(letter: str) -> bool:
    """Return whether normalization may join a character to the one before it."""
    first = unicodedata.normalize("NFKD", letter)[0]
    is_jamo = "\u1160" <= first <= "\u11ff"
    return is_jamo or unicodedata.category(first)[0] == "M"


def fold_in_pieces(text: str) -> Folded:
    if text.isascii() and len(folded := fold(text)) == len(text):
        return Folded(folded, range(len(text)), range(1, len(text) + 1))
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and _continues(text[end]):
            continue
        piece = fold(text[start:end])
        pieces.append(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
        start = end
    return Folded("".join(pieces), starts, ends)


class Highlighter:
    """Finds the words of one search."""

    def __init__(self, search: str) -> None:
        self._whole = search.strip().lower()
        self._words = [
            re.compile(("" if is_found_inside(word) else r"(?<!\S)") + re.escape(word))
            for word in dict.fromkeys(search_words(search).split())
        ]

    def ranges(self, text: str) -> list[Range]:
        """Return where `text` has one of the words, each as its start and end."""
        plain = fold(text) if self._words else ""
        if not any(word.search(plain) for word in self._words):
            return []
        folded = fold_in_pieces(text)
        return _merged(
            [folded.starts[found.start()], folded.ends[found.end() - 1]]
            for word in self._words
            for found in word.finditer(folded.text)
        )

    def highlight(
        self, item: Item, searchable: Sequence[str]
    ) -> dict[str, list[Range]]:
        """Return the ranges by path: `name`, `labels.de`, `aliases.0`, …

        `searchable` are the attributes that the search looks into.
        """
        found: dict[str, list[Range]] = {}
        if ranges := self.ranges_of_id(item.pk):
            found["id"] = ranges
        left = LETTERS_MAX
        for path, text in _texts(item, searchable):
            if ranges := self.ranges(text[:left]):
                found[path] = ranges
            left -= len(text)
            if left <= 0:
                break
        if self._words and item.code.lower() == self._whole:
            found["code"] = [[0, len(item.code)]]
        return found

    def ranges_of_id(self, item_id: str) -> list[Range]:
        """Return where an id is what is searched for: all of it, or its code."""
        named = item_id.lower()
        _, dot, code = named.partition(".")
        if not self._words or self._whole not in (named, code if dot else named):
            return []
        start = 0 if named == self._whole else len(named) - len(code)
        return [[start, len(named)]]


def highlight(items: Sequence[Item], search: str) -> list[dict[str, list[Range]]]:
    """Return what `search` has found of each item, by one query for all of them."""
    highlighter = Highlighter(search)
    keys = {item.collection_id for item in items}
    collections = Collection.objects.in_bulk(keys) if keys else {}
    return [
        highlighter.highlight(item, collections[item.collection_id].searchable)
        for item in items
    ]


def _merged(ranges: Iterator[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def _texts(item: Item, searchable: Sequence[str]) -> Iterator[tuple[str, str]]:
    for field in SEARCHED_FIELDS:
        value = field.read(item)
        if field.to_search(value):
            yield from _parts(field.name, value)
    for name in searchable:
        if name in item.attributes:
            yield from _parts(f"attributes.{name}", item.attributes[name])


def _parts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        members: Any = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    else:
        yield path, str(value)
        return
    for name, one in members:
        yield f"{path}.{name}", str(one)
