"""Full-text search: every word of the query, in any searched field; or a whole id.

Words of three letters and more are found anywhere, also inside a word; shorter ones
at the beginning of a word, and in scripts without spaces anywhere. PostgreSQL answers
from a trigram index over `Item.search_text`. SQLite answers from an FTS5 table with
trigrams over `items_search`, which gives every item an integer key: the table of items
has none that survives a VACUUM. Triggers keep both tables in step.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import orjson
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BooleanField,
    Case,
    CharField,
    Func,
    Q,
    TextField,
    Value,
    When,
)
from django.db.models.expressions import RawSQL
from django.db.models.functions import Concat, Lower

if TYPE_CHECKING:
    from items.models import ItemQuerySet

TRIGRAM = 3
RARE_ROWS = 50_000
# SQLite has no index for words that are all short: it may read the table to count them.
FEW_ROWS = 1_000
SORT_KEY_MAX = 250
# Begins every search text that is made as below: others are of an earlier release.
FORMAT_MARK = "\r"
LAST_CHARACTER = "\U0010ffff"

_SQLITE_MATCH = """
    SELECT item_id FROM items_search
    WHERE rowid IN (SELECT rowid FROM items_search_index WHERE text MATCH %s)
"""
_SQLITE_SOME = """
    SELECT item_id FROM items_search
    WHERE rowid IN (SELECT rowid FROM items_search_index WHERE text MATCH %s LIMIT %s)
"""

# --- folding: what is alike to the search

_APOSTROPHES = "'`´ʹʻʼʽʾʿˈ‘’‛′＇՚׳\ua78b\ua78c"
# Shown as nothing, though not of the category that says so (Cf).
_INVISIBLE = (
    "\u0640\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
)
# Marks of Latin, Greek, Cyrillic, Hebrew and Arabic, whose words are written without
# them too. In other scripts a mark makes another letter.
_MARKS = (
    "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
    "\u0483-\u0489\u2de0-\u2dff\ua66f-\ua67d\ua69e\ua69f"
    "\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u08ca-\u08ff"
)
_is_dropped = re.compile(f"[{_APOSTROPHES}{_INVISIBLE}{_MARKS}]").match
# Letters without a decomposition, by their name: ł, ø, đ, ħ, ı, æ, œ, …
_latin_letter = re.compile(
    r"LATIN SMALL (?:LETTER|LIGATURE) (?:DOTLESS |OPEN )?([A-Z]{1,2})(?: WITH .+)?"
).fullmatch
_OTHER_LETTERS = {"þ": "th", "ð": "d", "ə": "e", "ŋ": "n", "ĸ": "q", "ƣ": "gh"}
# Chinese, Japanese and Korean are written without spaces, or searched by syllable.
_unspaced = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_number = re.compile("0*([0-9]+)")


@lru_cache(4096)
def _folded(code: int) -> str:
    """Return what stands for a character of lower case: letters, a space or nothing."""
    letter = chr(code)
    category = unicodedata.category(letter)
    if _is_dropped(letter) or category == "Cf":
        return ""
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    if named := _latin_letter(unicodedata.name(letter, "")):
        return named[1].lower()
    if letter.isalnum() or category in ("Mn", "Mc"):
        return _OTHER_LETTERS.get(letter, letter)
    if category in ("So", "Sc") and code > 127:
        return f" {letter} "  # an emoji or a currency sign is a word
    return " "


class _Folding:
    def __getitem__(self, code: int) -> str:
        return _folded(code)


_folding = _Folding()
_ascii_folding = {code: _folded(ord(chr(code).lower())) for code in range(128)}


def fold(text: str) -> str:
    """Return `text` in lower case, without accents, and with spaces for punctuation."""
    if text.isascii():
        return text.translate(_ascii_folding)
    # Compatibility caseless matching (Unicode 16, section 3.13, D146). Some apostrophes
    # would become a space and a mark.
    plain = "".join(letter for letter in text if letter not in _APOSTROPHES)
    plain = unicodedata.normalize("NFD", plain).casefold()
    plain = unicodedata.normalize("NFKD", plain).casefold()
    plain = unicodedata.normalize("NFKD", plain).translate(_folding)
    return unicodedata.normalize("NFC", plain)


def search_words(text: str) -> str:
    """Return the words of `text` in lower case, without accents or punctuation."""
    return " ".join(fold(text).split())


def is_found_inside(word: str) -> bool:
    """Return whether the search finds the word also where no word begins."""
    return len(word) >= TRIGRAM or _unspaced.fullmatch(word) is not None


def search_text(*texts: str) -> str:
    """Return what the search looks into; every word has a space before it.

    Where words are not separated, each pair of characters is a word too, in a line of
    its own: so one or two of them are found anywhere.
    """
    text = "".join([f" {search_words(text)}" for text in texts])
    if text.isascii():
        return FORMAT_MARK + text
    pairs = {
        run[at : at + 2]: None
        for run in _unspaced.findall(text)
        for at in range(len(run))
    }
    return FORMAT_MARK + text + "".join(f"\n {pair}" for pair in pairs)


def words_in(search_text: str) -> list[str]:
    """Return the words of a search text, as they follow each other."""
    return search_text.removeprefix(FORMAT_MARK).partition("\n")[0].split()


def sort_key(name: str) -> str:
    """Return what names are ordered by: without case and accents, numbers by value."""
    return _by_value(search_words(name) or name)[:SORT_KEY_MAX]


def _by_value(words: str) -> str:
    """Put before each number how many digits it has."""
    return _number.sub(_with_length, words) if not words.isalpha() else words


def _with_length(number: re.Match[str]) -> str:
    nines, rest = divmod(len(number[1]), 9)
    return f"{'9' * nines}{rest}{number[1]}"


# --- queries


class Code(Func):
    """The code in an id, which may have its collection before it: `country.DE`."""

    template = "LOWER(SUBSTR(%(expressions)s, STRPOS(%(expressions)s, '.') + 1))"
    output_field = CharField()

    def as_sqlite(
        self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        context["template"] = self.template.replace("STRPOS", "INSTR")
        return self.as_sql(compiler, connection, **context)


class HasNoMark(Func):
    """Whether a search text lacks FORMAT_MARK; without parameters, for an index."""

    template = "(SUBSTR(%(expressions)s, 1, 1) <> CHR(13))"
    output_field = BooleanField()

    def as_sqlite(
        self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        context["template"] = self.template.replace("CHR", "CHAR")
        return self.as_sql(compiler, connection, **context)


def matching(rows: ItemQuerySet, text: str) -> ItemQuerySet:
    """Filter `rows` by the words of `text`; without a word none is found."""
    words = dict.fromkeys(search_words(text).split())
    if not words:
        return rows.none() if text.strip() else rows
    found = Q()
    long = [word for word in words if len(word) >= TRIGRAM]
    short = [f" {word}" for word in words if len(word) < TRIGRAM]
    if long and connections[rows.db].vendor == "sqlite":
        query = " AND ".join(f'"{word}"' for word in long)
        raw = RawSQL(_SQLITE_MATCH, [query], TextField())  # noqa: S611 - a parameter
        found, long = Q(pk__in=raw), []
    for part in [*long, *short]:
        found &= Q(search_text__contains=part)
    return _with_codes(rows).filter(_has_id(text) | found)


def with_a_part_of_each(
    rows: ItemQuerySet, words: Sequence[Sequence[str]], at_most: int
) -> ItemQuerySet:
    """Return some items that have, of every word, one of these parts of it.

    A part has three characters or more, so that an index finds it.
    """
    if connections[rows.db].vendor == "sqlite":
        query = " AND ".join(
            f"({' OR '.join(f'"{part}"' for part in parts)})" for parts in words
        )
        raw = RawSQL(_SQLITE_SOME, [query, at_most], TextField())  # noqa: S611 - parameters
        return rows.filter(pk__in=raw)
    found = Q()
    for parts in words:
        found &= reduce(or_, [Q(search_text__contains=part) for part in parts])
    return rows.filter(found)[:at_most]


def _with_codes(rows: ItemQuerySet) -> ItemQuerySet:
    return rows.alias(own_code=Lower("code"), id_code=Code("id"))


def _has_id(text: str) -> Q:
    """Return the condition that an item has this id or code."""
    text = text.strip().lower()
    if not text:
        return Q(pk__in=())
    is_code = Q(own_code=text) | Q(id_code=text)
    _, dot, code = text.partition(".")
    return is_code | Q(id_code=code, id__iexact=text) if dot else is_code


def by_relevance(rows: ItemQuerySet, text: str) -> ItemQuerySet:
    """Annotate `rank`: id or code, beginning of the name, words of the name, the rest.

    A name that is the whole query is the first of those that begin with it.
    """
    words = search_words(text)
    if not words:
        return rows.annotate(rank=Value(0))
    name = Concat(Value(" "), "sort_key", Value(" "), output_field=CharField())
    in_name = Q()
    for word in words.split():
        in_name &= Q(padded_key__contains=f" {_by_value(word)} ")
    return (
        _with_codes(rows)
        .alias(padded_key=name)
        .annotate(
            rank=Case(
                When(_has_id(text), Value(0)),
                When(_begins_with(text), Value(1)),
                When(in_name, Value(2)),
                default=Value(3),
            )
        )
    )


def tiers(rows: ItemQuerySet, text: str) -> dict[int, ItemQuerySet]:
    """Return the rows by `rank`, which is coarser: each is read by an index."""
    rows = _with_codes(rows)
    first, second = _has_id(text), _begins_with(text)
    conditions = {0: first, 1: second & ~first, REST: ~first & ~second}
    return {
        rank: rows.filter(condition).annotate(rank=Value(rank))
        for rank, condition in conditions.items()
    }


REST = 4


def _begins_with(text: str) -> Q:
    key = sort_key(text)
    return Q(sort_key__gte=key, sort_key__lt=key + LAST_CHARACTER)


def can_be_ranked(rows: ItemQuerySet, text: str) -> bool:
    """Return whether all rows that match `text` may be ranked.

    SQLite finds all in any case by a long word, and the first ones by short words.
    """
    if connections[rows.db].vendor != "sqlite":
        return is_rare(rows)
    has_long = any(len(word) >= TRIGRAM for word in search_words(text).split())
    return has_long or rows[:FEW_ROWS].count() < FEW_ROWS


def is_rare(rows: ItemQuerySet, at_most: int | None = None) -> bool:
    """Return whether the rows are few enough to be found all, and then sorted.

    The other way to a page is to walk an index in the list's order and pick the
    matches: right for frequent words, and the planner's choice for too many others,
    as it takes words and order for independent. Words that are all at the far end
    (“python3” by name) would make it read the whole table.
    """
    if rows.query.is_empty() or connections[rows.db].vendor != "postgresql":
        return False
    plan = rows.order_by().values("pk").explain(format="json")
    most = RARE_ROWS if at_most is None else at_most
    return int(orjson.loads(plan)[0]["Plan"]["Plan Rows"]) < most


# --- SQLite's tables and triggers, for the migrations

TABLES = (
    """CREATE TABLE items_search (
        rowid INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, text TEXT NOT NULL)""",
    """CREATE VIRTUAL TABLE items_search_index USING fts5(
        text, content='items_search', content_rowid='rowid', tokenize='trigram')""",
)

_ADD = "INSERT INTO items_search_index (rowid, text) VALUES (new.rowid, new.text);"
# How an external-content table is notified of a removal (SQLite, FTS5 section 4.4.3).
_REMOVE = (
    "INSERT INTO items_search_index (items_search_index, rowid, text) "
    "VALUES ('delete', old.rowid, old.text);"
)
TRIGGERS = {
    "items_search_added": f"AFTER INSERT ON items_search BEGIN {_ADD} END",
    "items_search_removed": f"AFTER DELETE ON items_search BEGIN {_REMOVE} END",
    "items_search_changed": (
        f"AFTER UPDATE ON items_search BEGIN {_REMOVE} {_ADD} END"
    ),
    "items_item_added": (
        "AFTER INSERT ON items_item BEGIN INSERT INTO items_search (item_id, text) "
        "VALUES (new.id, new.search_text); END"
    ),
    "items_item_removed": (
        "AFTER DELETE ON items_item BEGIN "
        "DELETE FROM items_search WHERE item_id = old.id; END"
    ),
    "items_item_changed": (
        "AFTER UPDATE OF search_text ON items_item "
        "WHEN new.search_text <> old.search_text BEGIN "
        "UPDATE items_search SET text = new.search_text WHERE item_id = new.id; END"
    ),
}


def create_tables(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)


def create_triggers(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for name, body in TRIGGERS.items():
            cursor.execute(f"CREATE TRIGGER IF NOT EXISTS {name} {body}")
