"""Batches of an import: rows cleaned, and each with the item that it is of."""

import io
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from django.db import connection

from items import fields, integrity, rules
from items.bulk.checking import BASE_VERSION
from items.fields import ItemData
from items.imports import missing
from items.imports.attribute_cells import Attributes, combine, read_day, set_members
from items.imports.columns import UnknownColumns
from items.imports.file_parsing import Line, Rows, read_rows
from items.imports.formats import FileFormat, Unreadable
from items.imports.rejects import Reject
from items.imports.seen_ids import SeenIds
from items.integrity import derived_id, new_id, place_name
from items.models import Collection, Item
from resilient_site.errors import Invalid

BATCH_ROWS = 5_000
BATCH_MAX_BYTES = 8 * 1024 * 1024  # of the file
SQLITE_BATCH_ROWS = 500
SQLITE_BATCH_MAX_BYTES = 512 * 1024
VERSION_MAX = 2**31 - 1
VERSION_DIGITS = len(str(VERSION_MAX))
# Fields that say which item a row is of.
NAMES = {"id", "code"}
DAYS = [field.name for field in fields.FIELDS if field.kind == "date"]


class Row(NamedTuple):
    """A row with its fields cleaned, but for the `cells` that are members of one."""

    line: Line
    data: ItemData
    cells: Mapping[str, Any]


class Batch:
    """Rows that are applied together, of one item each.

    It takes the next ones of `rows`, after `offset`. Each is cleaned before the next
    one is read: what no rule bounds is not kept. Of rows of one item the first counts,
    or the last, as `form` says; with `ids`, also of those of batches before.
    """

    def __init__(
        self, rows: Rows, form: FileFormat, offset: int, ids: SeenIds | None
    ) -> None:
        self.line, self.offset = 0, offset
        self.rows: dict[str, ItemData] = {}
        self.rejects: list[Reject] = []
        self.generated_ids: set[str] = set()
        # Rows that are in one with a later row: with other values, or the same.
        self.replaced = self.repeated = 0
        # Rows of which nothing says which item they are of.
        self.unidentified = 0
        self._form, self._is_comma = form, rows.separator == ";"
        self._lines: dict[str, Line] = {}
        # What rows name their items by, and what they have beside, see SeenIds.
        self._names: dict[str, set[str]] = {}
        self._others: set[str] = set()
        read: list[Row] = []
        rows_max, bytes_max = limits()
        for line in islice(rows.lines, rows_max):
            self.line, self.offset = line.number, line.end
            if line.error:
                self._reject(line, line.error)
            elif line.fields:
                try:
                    read.append(_clean(line, form))
                except Invalid as error:
                    self._reject(line, integrity.describe(error.errors or {}))
            if self.offset - offset >= bytes_max:
                break
        self._take_all(self._with_ids(read))
        if ids and self.line:
            self._record(ids)
        self.rejects.sort(key=lambda reject: reject.line.number)

    def _with_ids(self, read: list[Row]) -> list[Row]:
        """Return the rows with the ids of their items, of new ones as well.

        Without an id it is the item with this code in this collection, whatever its id.
        """
        unnamed = [row for row in read if "id" not in row.data and "code" in row.data]
        places = {place: "" for row in unnamed if (place := _place(row.data))}
        if places:
            known = Item.objects.ids_by_place(places)
            derived = {
                place: derived_id({"collection": place[0], "code": place[1]})
                for place in places.keys() - known.keys()
            }
            # Of an item that has another code, or is in another collection, now.
            taken = set(
                Item.objects.filter(pk__in=filter(None, derived.values()))
                .values_list("pk", flat=True)
            )  # fmt: skip
            places |= known
            places |= {p: pk for p, pk in derived.items() if pk and pk not in taken}
        for row in read:
            if row.data.get("collection") == self._form.collection != "":
                self._others.add(missing.row_of_collection(self._form))
            if "id" in row.data:
                names = {row.data["id"]}
                if "code" in row.data and self._form.missing_action != "keep":
                    self._others.add(place_name(*_place_of(row.data)))
            elif "code" not in row.data:
                row.data["id"], names = new_id(), set()
                self.generated_ids.add(row.data["id"])
            elif place := _place(row.data):
                if not places[place]:
                    places[place] = new_id()
                    self.generated_ids.add(places[place])
                row.data["id"] = pk = places[place]
                names = {place_name(*place)}
                names |= {pk} - self.generated_ids
            else:
                row.data["id"] = row.data["code"]
                names = {row.data["id"]}
            self._names.setdefault(row.data["id"], set()).update(names)
        return read

    def _take_all(self, read: list[Row]) -> None:
        attributes = self._attributes(read)
        for line, data, cells in read:
            try:
                if cells:
                    data |= set_members(
                        cells,
                        attributes[data["id"]],
                        is_text=not self._form.is_json,
                        decimal_comma=self._is_comma,
                    )
                self._take(line, data)
            except Invalid as error:
                self._reject(line, integrity.describe(error.errors or {}))
            else:
                self.unidentified += not self._names[data["id"]]

    def _attributes(self, read: list[Row]) -> dict[str, Attributes]:
        """Return by item what its row may have, if it has cells that depend on it."""
        keys = {row.data["id"]: row.data.get("collection") for row in read if row.cells}
        unnamed = [pk for pk, key in keys.items() if key is None]
        if unnamed:
            items = Item.objects.filter(pk__in=unnamed)
            keys |= dict.fromkeys(unnamed, rules.GENERAL)
            keys |= dict(items.values_list("pk", "collection_id"))
        found = Collection.objects.in_bulk(set(keys.values()))
        by_key = {key: Attributes(found.get(key)) for key in set(keys.values())}
        return {pk: by_key[key] for pk, key in keys.items()}

    def _take(self, line: Line, data: ItemData) -> None:
        is_first = self._form.duplicates == "reject"
        if not is_first and BASE_VERSION in data:
            # A row before may have been written, or have been a conflict itself.
            reason = "Leave it out where the last row of an id counts."
            raise Invalid(errors={"version": [reason]})
        if earlier := self.rows.get(data["id"]):
            if is_first:
                number = self._lines[data["id"]].number
                raise Invalid(errors={"id": [_is_repeated(number)]})
            data = combine(earlier, data)
            self.replaced += data != earlier
            self.repeated += data == earlier
        self.rows[data["id"]] = data
        self._lines[data["id"]] = line

    def _record(self, ids: SeenIds) -> None:
        numbers = {
            name: line.number
            for pk, line in self._lines.items()
            for name in self._names[pk]
        }
        earlier = ids.record(numbers, self._others, up_to=self.line)
        if self._form.duplicates != "reject" or not earlier:
            return
        self.reject(
            {
                pk: f"id: {_is_repeated(min(found))}"
                for pk in self._lines
                if (found := [earlier[n] for n in self._names[pk] if n in earlier])
            }
        )

    def _reject(self, line: Line, reason: str) -> None:
        """Reject a row that is not valid in itself."""
        self.rejects.append(Reject(line, reason))
        names = _names_in(line, self._form)
        self._others |= names
        self.unidentified += not names

    def line_of(self, item_id: str) -> Line:
        return self._lines[item_id]

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Reject rows that are valid in themselves, by their ids."""
        for pk, reason in reasons.items():
            del self.rows[pk]
            self.rejects.append(Reject(self._lines[pk], reason))
        self.rejects.sort(key=lambda reject: reject.line.number)

    def defer(self, item_ids: Iterable[str]) -> list[tuple[ItemData, Line]]:
        """Return these rows, which are not of this batch any more."""
        return [(self.rows.pop(pk), self._lines[pk]) for pk in item_ids]

    def include(self, earlier: Mapping[str, ItemData]) -> None:
        """Make one of each of these rows with the later one of its item."""
        for pk, data in earlier.items():
            row = combine(data, self.rows[pk])
            self.replaced += row != data
            self.repeated += row == data
            self.rows[pk] = row


def open_rows(
    stream: io.BufferedReader,
    form: FileFormat,
    *,
    offset: int = 0,
    line: int = 0,
    max_bytes: int | None = None,
) -> Rows:
    """Read the rows, as `read_rows`, of a file for the collection that is chosen.

    Raises Unreadable also if there is none, and UnknownColumns if its items cannot have
    the attribute of a column, or if no column says what is missing from the file.
    """
    rows = read_rows(stream, form, offset=offset, line=line, max_bytes=max_bytes)
    if not form.collection:
        return rows
    if form.missing_action != "keep" and rows.columns and not NAMES & {*rows.fields}:
        raise UnknownColumns(
            "No column is the id or the code: it is not known which items are missing "
            "from the file. Assign one of its columns to it.",
            rows.columns,
        )
    collection = Collection.objects.filter(pk=form.collection).first()
    if collection is None:
        raise Unreadable(
            f"There is no collection “{form.collection[: rules.KEY_MAX]}”."
        )
    if "collection" not in rows.fields:
        attributes = Attributes(collection)
        for name, column in zip(rows.fields, rows.columns, strict=True):
            if not attributes.may_have(name):
                raise UnknownColumns(
                    f"The items of “{collection.key}” cannot have the attribute of the "
                    f"column “{column[:50]}”. Assign it to another one, or leave it "
                    "out.",
                    rows.columns,
                )
    return rows


def limits() -> tuple[int, int]:
    """Return how many rows, and bytes of the file, are applied together."""
    if connection.vendor != "sqlite":
        return BATCH_ROWS, BATCH_MAX_BYTES
    # No other writer is let in meanwhile.
    return (
        min(BATCH_ROWS, SQLITE_BATCH_ROWS),
        min(BATCH_MAX_BYTES, SQLITE_BATCH_MAX_BYTES),
    )


def _clean(line: Line, form: FileFormat) -> Row:
    """Return the fields of a row, with the version that it was made of."""
    raw: dict[str, Any] = dict(line.fields)
    cells = {name: raw.pop(name) for name in line.fields if "." in name}
    if form.collection and raw.get("collection") in (None, ""):
        raw["collection"] = form.collection
    if not form.is_json:
        raw |= {name: read_day(raw[name]) for name in DAYS if raw.get(name)}
    # An item that exists keeps what the row has no column for.
    is_named = any(raw.get(name) not in (None, "") for name in ("id", "code"))
    data = fields.clean(raw, partial=is_named)
    version = raw.get("version")
    if version not in (None, ""):
        text = str(version).strip()
        is_number = text.isascii() and text.isdigit() and len(text) <= VERSION_DIGITS
        if not is_number or int(text) > VERSION_MAX:
            raise Invalid(errors={"version": ["Must be a whole number."]})
        data[BASE_VERSION] = int(text)
    return Row(line, data, cells)


def _names_in(line: Line, form: FileFormat) -> set[str]:
    """Return what a rejected row names its item by; nothing if that is not known."""
    raw = {name: line.fields.get(name) for name in ("id", "collection", "code")}
    raw["collection"] = raw["collection"] or form.collection
    try:
        data = fields.clean(raw, partial=True)
    except Invalid:
        return set()
    names = {data["id"]} if "id" in data else set()
    return names | ({place_name(*_place_of(data))} if "code" in data else set())


def _place_of(data: ItemData) -> tuple[str, str]:
    return data.get("collection", rules.GENERAL), data["code"]


def _place(data: ItemData) -> tuple[str, str] | None:
    """Return collection and code; None where the code is the id."""
    key, code = _place_of(data)
    return None if key == rules.GENERAL else (key, code)


def _is_repeated(line: int) -> str:
    return f"The id is in line {line:,} already."
