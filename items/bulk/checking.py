"""Rows that are to be written together: what is known of their items, and the checks.

Items as they are, as far as the checks need them, come by one query. What is left of
the rows is written by `items.bulk.staging`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import date
from typing import Any, NamedTuple

import orjson
from django.db import connection
from django.db.models import Max

from items import fields, integrity, rules
from items.bulk.rows import is_any, texts
from items.field_types import ItemField
from items.fields import COLUMN_FIELDS, ItemData
from items.integrity import ItemErrors, Write
from items.models import Collection, ItemChange
from resilient_site.errors import Invalid

# Of a row: the version of the item that it was made of. It is no older one's to
# overwrite what others have written since.
BASE_VERSION = "base_version"
# Members of a row that change only some members of a field: of attributes and labels
# values by name (None: without it), of tags names.
SET_ATTRIBUTES, SET_LABELS = "set_attributes", "set_labels"
ADD_TAGS, REMOVE_TAGS = "add_tags", "remove_tags"
SET = {SET_ATTRIBUTES: "attributes", SET_LABELS: "labels"}
PARTIAL = {*SET, ADD_TAGS, REMOVE_TAGS}
# What the search columns are made of, beside attributes.
SEARCHED = {*(f.name for f in fields.SEARCHED_FIELDS), "collection", SET_LABELS}
SEARCHED_COLUMNS = [f for f in COLUMN_FIELDS if f.name in fields.SEARCHED]
CHECKED_COLUMNS = [f for f in COLUMN_FIELDS if f.name in integrity.CHECKED]


class Absence(NamedTuple):
    """What an item refers to and what does not exist, see `integrity.Absent`."""

    names: frozenset[str]
    place: str  # of the item itself
    is_new: bool


# Called with a batch when its items are known. Rejects rows that cannot be written, and
# returns what else is wrong with others.
type Expect = Callable[["Batch"], dict[str, ItemErrors]]


class Batch:
    """Rows, with what is known of their items before they are staged.

    With `locks` the items stay as they are until the transaction ends, on PostgreSQL.
    `generated` are ids which no item has ever had.
    With `expect` all errors are found at once, for a call that is all or none.
    Rows that are whole states get no defaults of their collection.
    """

    def __init__(
        self,
        rows: Sequence[ItemData],
        *,
        locks: bool = False,
        generated: Set[str] = frozenset(),
        expect: Expect | None = None,
        is_whole: bool = False,
    ) -> None:
        self.is_whole = is_whole
        self.rows = {row["id"]: row for row in rows}
        self.generated = generated
        self.errors: dict[str, ItemErrors] = {}
        self.absent: dict[str, Absence] = {}
        self._absent_rows: dict[str, ItemData] = {}
        # By id, where all items were new, once they are written.
        self.created: dict[str, ItemData] = {}
        # Names that each row has, and that any of them has.
        common = set(rows[0]) if rows else set()
        self.named: set[str] = set()
        for row in rows:
            common &= row.keys()
            self.named |= row.keys()
        self.known: dict[str, ItemData] = {}
        self.versions: dict[str, int] = {}
        # Whether the search columns are made anew: of what a row lacks all the same.
        self.is_searched = not self.named.isdisjoint(SEARCHED)
        lacking = [f for f in SEARCHED_COLUMNS if f.name not in common]
        if given_ids := self.rows.keys() - generated:
            needed = [f for f in lacking if f not in CHECKED_COLUMNS]
            searched = needed if self.is_searched else []
            self._find(given_ids, [*CHECKED_COLUMNS, *searched], locks=locks)
            if not self.is_searched and self._has_searched_attributes():
                self.is_searched = True
                self._find(given_ids, [*CHECKED_COLUMNS, *needed], locks=False)
        self._reject_deleted()
        unexpected = expect(self) if expect else {}
        self._merge()
        self._move()
        self._place()
        keys = {state["collection"] for state in self.known.values()}
        keys |= {row["collection"] for row in self.rows.values() if "collection" in row}
        self.collections = Collection.objects.in_bulk(keys)
        self.states = {pk: self._state(pk) for pk in self.rows}
        while errors := self._errors():
            for pk, found in errors.items():
                if absent := integrity.absent_names(found):
                    self.absent[pk] = Absence(absent, *self._placed(pk))
                    self._absent_rows[pk] = self.rows[pk]
            # What refers to these has nothing to refer to any more.
            self.reject(errors)
            if expect:
                break  # nothing is written: each error is one of its own row
        self.reject(unexpected)

    def _has_searched_attributes(self) -> bool:
        if self.named.isdisjoint(("attributes", SET_ATTRIBUTES)):
            return False
        keys = {state["collection"] for state in self.known.values()}
        return any(c.searchable for c in Collection.objects.filter(pk__in=keys))

    def include_absent(self) -> None:
        """Take back the rows that wait for what they refer to."""
        self.rows |= self._absent_rows

    def _find(self, ids: Set[str], needed: Sequence[ItemField], *, locks: bool) -> None:
        self.known.clear()
        self.versions.clear()
        columns = ", ".join(field.column for field in needed)
        sql = f"SELECT id, version, {columns} FROM items_item WHERE id {is_any()}"
        if locks and connection.vendor == "postgresql":
            # In the order of the ids, so that two imports wait and do not deadlock.
            sql += " ORDER BY id FOR NO KEY UPDATE"
        with connection.cursor() as cursor:
            cursor.execute(sql, [texts(ids)])
            names = [field.name for field in needed]
            read = [(f.name, _READ[f.kind]) for f in needed if f.kind in _READ]
            for pk, version, *values in cursor:
                state = dict(zip(names, values, strict=True))
                for name, cleaned in read:
                    state[name] = cleaned(state[name])
                state["code"] = state["code"] or pk  # see `fields.CodeField.read`
                self.known[pk], self.versions[pk] = state, version

    def reject(self, errors: Mapping[str, ItemErrors]) -> None:
        for pk, found in errors.items():
            self.rows.pop(pk, None)
            self.errors[pk] = self.errors.get(pk, {}) | found

    def _reject_deleted(self) -> None:
        """Reject rows that are made of an item that was deleted since."""
        new = self.rows.keys() - self.known.keys()
        bases = {
            pk: self.rows[pk][BASE_VERSION]
            for pk in new
            if BASE_VERSION in self.rows[pk]
        }
        if not bases:
            return
        changes = ItemChange.objects.filter(item_id__in=bases)
        last = dict(changes.values_list("item_id").annotate(Max("version")))
        self.reject(
            {
                pk: {
                    "version": [f"Conflict: the item was deleted since version {base}."]
                }
                for pk, base in bases.items()
                if base < last.get(pk, 0)
            }
        )

    def _merge(self) -> None:
        """Make whole values of rows that change only members of them."""
        if self.named.isdisjoint(PARTIAL):
            return
        tags, wrong = self._known_tags(), dict[str, ItemErrors]()
        members: Any = None
        cleaned = _Members({}, [])
        for pk, row in self.rows.items():
            if row.keys().isdisjoint(PARTIAL):
                continue
            whole = {name: row[name] for name in row if name not in PARTIAL}
            before = self.known.get(pk, {}) | whole
            errors: ItemErrors = {}
            if SET_ATTRIBUTES in row:
                try:
                    if row[SET_ATTRIBUTES] is not members:  # often that of all rows
                        cleaned = _clean_members(row[SET_ATTRIBUTES])
                        members = row[SET_ATTRIBUTES]
                    kept = before.get("attributes", {})
                    whole["attributes"] = rules.merge_attributes(kept, *cleaned)
                except ValueError as error:
                    errors["attributes"] = [str(error)]
            try:
                if merged := _merged(row, before, tags[pk]):
                    whole |= fields.clean(merged, partial=True, is_json=True)
            except Invalid as error:
                errors |= error.errors or {}
            if errors:
                wrong[pk] = errors
            self.rows[pk] = whole
        self.reject(wrong)

    def _known_tags(self) -> dict[str, list[str]]:
        changed = [
            pk for pk, row in self.rows.items() if ADD_TAGS in row or REMOVE_TAGS in row
        ]
        tags: dict[str, list[str]] = defaultdict(list)
        if changed:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT l.item_id, t.name FROM items_itemtag l "
                    f"JOIN items_tag t ON t.id = l.tag_id WHERE l.item_id {is_any()}",
                    [texts(changed)],
                )
                for pk, name in cursor:
                    tags[pk].append(name)
        return tags

    def _move(self) -> None:
        """Give items that go to another collection the code that they have there."""
        if self.named.isdisjoint(integrity.PLACE):
            return
        wrong: dict[str, ItemErrors] = {}
        for pk, row in self.rows.items():
            before = self.known.get(pk)
            if before is None:
                continue
            key = row.get("collection", before["collection"])
            is_moved = key != before["collection"]
            if not is_moved and (key != rules.GENERAL or row.get("code", pk) == pk):
                continue
            try:
                code = integrity.change(pk, before, row)["code"]
            except Invalid as error:
                wrong[pk] = dict(error.errors or {})
            else:
                self.rows[pk] = row | {"code": code}
        self.reject(wrong)

    def _place(self) -> None:
        reasons: dict[str, ItemErrors] = {}
        for pk, row in self.rows.items():
            if pk in self.known:
                continue
            if not row.get("name"):
                message = "There is no such item; a new one needs a name."
                reasons[pk] = {"name": [message]}
                continue
            try:
                self.rows[pk] = integrity.place(row)
            except Invalid as error:
                reasons[pk] = dict(error.errors or {})
        self.reject(reasons)

    def _state(self, pk: str) -> ItemData:
        """Return what is known of the state after the write."""
        row = self.rows[pk]
        if pk not in self.known:
            defaults = {} if self.is_whole else self.collections
            state = integrity.new_state(row, defaults)
            if state["attributes"]:
                self.rows[pk] = row | {"attributes": state["attributes"]}
            return state
        return self.known[pk] | row

    def _placed(self, pk: str) -> tuple[str, bool]:
        state = self.states[pk]
        place = integrity.place_name(state["collection"], state["code"] or pk)
        return place, pk not in self.known

    def _errors(self) -> dict[str, Any]:
        writes = []
        for pk, row in self.rows.items():
            before = self.known.get(pk)
            if before is None or not row.keys().isdisjoint(integrity.CHECKED):
                writes.append(Write(pk, before, self.states[pk]))
        return integrity.check(writes, self.collections)


def _merged(row: ItemData, before: ItemData, tags: Iterable[str]) -> ItemData:
    """Return the labels and the tags whole, not cleaned, if the row changes some."""
    merged: ItemData = {}
    if SET_LABELS in row:
        labels = before.get("labels", {}) | row[SET_LABELS]
        merged["labels"] = {n: v for n, v in labels.items() if v is not None}
    if ADD_TAGS in row or REMOVE_TAGS in row:
        kept = {*before.get("tags", tags)} - {*row.get(REMOVE_TAGS, ())}
        merged["tags"] = [*kept, *row.get(ADD_TAGS, ())]
    return merged


class _Members(NamedTuple):
    """Attributes that an item is given, cleaned, and names of those it loses."""

    given: ItemData
    removed: list[str]


def _clean_members(members: Mapping[str, Any]) -> _Members:
    given = {name: value for name, value in members.items() if value is not None}
    return _Members(rules.clean_attributes(given), [*(members.keys() - given.keys())])


def _as_date(value: date | str | None) -> str | None:
    return value.isoformat() if isinstance(value, date) else value


# How values of the database become those of a state, by the kind of their field.
_READ: dict[str, Callable[[Any], Any]] = {"json": orjson.loads, "date": _as_date}
