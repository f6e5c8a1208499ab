"""Parsing of import files into rows, each with the fields of an item.

Memory is bounded by the longest line, whatever the size of the file. A line that
cannot be read is reported, and reading continues after it; a file that is not one of
items is rejected. `recognition` says what a file is, and `file_lines` makes its lines.
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import orjson

from items import fields
from items.imports.file_lines import LINE_MAX_BYTES, damage_reported, open_lines
from items.imports.formats import ENCODINGS, FileFormat, Unreadable
from resilient_site.api.csv_escaping import unescape
from resilient_site.errors import Invalid

COLUMNS = [field.name for field in fields.FIELDS]
# What a file of rejected rows has beside these: see `rejects.Rejects`.
REJECT_COLUMNS = ("reject_line", "reject_reason", "reject_row")
KNOWN = {*COLUMNS, *fields.READ_ONLY, *REJECT_COLUMNS}
ASSIGNABLE = {*KNOWN, ""}
# Columns that other systems call otherwise: what the form suggests.
SYNONYMS = {
    "id": ("key", "identifier", "item"),
    "name": ("label", "title", "term", "text"),
    "description": ("notes", "note", "comment", "comments", "details", "definition"),
    "tags": ("tag", "keywords", "categories", "category"),
}

COLUMNS_MAX = 200
# Well over what the rules allow in one row, however it is written.
ROW_MAX_BYTES = 256 * 1024

csv.field_size_limit(LINE_MAX_BYTES)
# The csv module's error for a quote that is never closed.
UNCLOSED = {"unexpected end of data": "a quote is opened and not closed"}
SEPARATORS = ",;\t|"


class UnknownColumns(Unreadable):
    """The columns have to be assigned to fields first."""

    def __init__(self, detail: str | None = None, columns: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.columns = list(columns)


@dataclass(slots=True)
class Line:
    """One row of the file: its fields or an error, and the position after it.

    An empty line has neither.
    """

    number: int
    end: int
    fields: Mapping[str, Any]
    error: str
    # The row as it stands in the file: its cells, an object, or the text of the lines.
    source: "list[str] | dict[str, Any] | str"

    @property
    def text(self) -> str:
        if isinstance(self.source, str):
            return self.source
        if isinstance(self.source, dict):
            return orjson.dumps(self.source).decode()
        return ", ".join(self.source)


class Rows(NamedTuple):
    """The rows of a file, with its columns; objects have none."""

    lines: Iterator[Line]
    columns: Sequence[str] = ()
    separator: str = ","


def read_rows(
    stream: io.BufferedReader,
    form: FileFormat,
    *,
    offset: int = 0,
    line: int = 0,
    max_bytes: int | None = None,
) -> Rows:
    """Read the rows after `offset` (in bytes of the lines) and `line`.

    Raises Unreadable, also while the rows are read, if the file is not one of items,
    is damaged, or is larger than `max_bytes` when unpacked; UnknownColumns if its
    columns are not those of an item.
    """
    stream.seek(0)
    content, encoding = open_lines(stream, form, max_bytes=max_bytes)

    def read(offset: int, line: int) -> Iterator[_Physical]:
        return _read_physical(content, encoding, offset, line, max_bytes)

    lines, separator, header = read(0, 0), ",", list[str]()
    if form.kind == "xlsx":
        header = _header_of_sheet(lines)
    elif not form.is_json:
        separator, header = _header_of_csv(lines)
    columns = _assign(header, form)
    if offset and content.seekable():
        content.seek(offset)
        lines = read(offset, line)
    elif offset:
        lines = (one for one in lines if one.end > offset)
    if form.is_json:
        return Rows(_read_objects(lines, form))
    if form.kind == "xlsx":
        return Rows(_read_sheet(lines, columns), header)
    return Rows(_read_csv(lines, separator, columns), header, separator)


class _Physical(NamedTuple):
    """A physical line, and the position after it."""

    text: str
    number: int
    end: int
    fault: str = ""


def _read_physical(
    stream: io.BufferedReader,
    encoding: str,
    offset: int,
    number: int,
    max_bytes: int | None,
) -> Iterator[_Physical]:
    def read() -> bytes:
        nonlocal offset
        raw = stream.readline(LINE_MAX_BYTES)
        offset += len(raw)
        if max_bytes is not None and offset > max_bytes:
            raise Unreadable(f"The file has more than {max_bytes:,} bytes.")
        return raw

    with damage_reported():
        while raw := read():
            number += 1
            text = fault = ""
            if len(raw) == LINE_MAX_BYTES and not raw.endswith(b"\n"):
                while raw and not raw.endswith(b"\n"):
                    raw = read()
                fault = f"The line is longer than {LINE_MAX_BYTES:,} bytes."
            else:
                try:
                    text = raw.decode(encoding)
                except UnicodeDecodeError:
                    text = raw.decode(encoding, "backslashreplace")
                    name = ENCODINGS.get(encoding, encoding)
                    fault = f"The line is not {name} text. Choose another encoding."
            if number == 1:
                text = text.removeprefix("\ufeff")
            yield _Physical(text, number, offset, fault)


# --- columns


class _Columns:
    """Where the cells of each column go: to a field, or nowhere."""

    def __init__(self, names: Sequence[str], fields: Sequence[str]) -> None:
        self.fields = fields  # empty: left out
        self.unnamed = {n for n, name in enumerate(names) if not name}
        self._is_plain = all(fields)

    def assign(self, cells: list[str]) -> dict[str, str]:
        """Return the cells by field; an empty row has none, a short one fewer.

        Raises ValueError if a cell that is not empty is in no column.
        """
        if not any(map(str.strip, cells)):
            return {}
        if self._is_plain and len(cells) == len(self.fields):
            return dict(zip(self.fields, cells, strict=True))
        for place in self.unnamed:
            if any(map(str.strip, cells[place : place + 1])):
                raise ValueError(f"Column {place + 1} has a cell, but no name.")
        if any(map(str.strip, cells[len(self.fields) :])):
            expected = len(self.fields)
            raise ValueError(f"Has {len(cells)} cells where the header has {expected}.")
        found = dict(zip(self.fields, cells, strict=False))
        found.pop("", None)
        return found


def _assign(header: Sequence[str], form: FileFormat) -> _Columns:
    """Return the columns with their fields, as chosen or by their names."""
    if not header:
        return _Columns((), ())  # an empty catalogue is exported as an empty file
    lower = [name.lower() for name in header]
    chosen = {name.strip().lower(): field for name, field in form.columns.items()}
    if missing := [name for name in chosen if name not in lower]:
        raise UnknownColumns(f"There is no column “{missing[0][:50]}”.", header)
    fields = [chosen.get(name, name) for name in lower]
    if unknown := [
        header[n] for n, name in enumerate(fields) if name not in ASSIGNABLE
    ]:
        raise UnknownColumns(
            f"Unknown column “{unknown[0][:50]}”. Assign it to one of these, or leave "
            f"it out: {', '.join(COLUMNS)}.",
            header,
        )
    found = [field for field in fields if field]
    if twice := [field for field in found if found.count(field) > 1]:
        raise UnknownColumns(f"There are two columns “{twice[0]}”.", header)
    if "name" not in found and "id" not in found:
        raise UnknownColumns("There is no column “name”, nor “id”.", header)
    return _Columns(header, fields)


def parse_columns(assignments: Iterable[str]) -> dict[str, str]:
    """Return fields by column, from texts such as `Label=name`; raises Invalid."""
    columns = {}
    for text in assignments:
        name, sign, field = text.rpartition("=")
        name, field = name.strip(), field.strip()
        if not sign or not name or field not in ASSIGNABLE:
            raise Invalid(
                f"“{text[:100]}” assigns no column: write COLUMN=FIELD, with one of "
                f"{', '.join(COLUMNS)}."
            )
        columns[name] = field
    return columns


def suggest(column: str) -> str:
    """Return the field that a column of this name probably has; empty: none."""
    name = column.strip().lower()
    if name in KNOWN:
        return name
    return next((field for field, names in SYNONYMS.items() if name in names), "")


# --- objects


def _read_objects(lines: Iterator[_Physical], form: FileFormat) -> Iterator[Line]:
    renamed = {name.strip(): field for name, field in form.columns.items()}
    for text, number, end, error in lines:
        found: Any = {}
        text = text.rstrip("\n")
        source: str | dict[str, Any] = text
        if text.strip() and not error:
            try:
                found = orjson.loads(text)
                orjson.dumps(found)  # it reads what it finds too deep to write
            except (orjson.JSONDecodeError, orjson.JSONEncodeError) as reason:
                error = f"This is not JSON: {reason}."
            else:
                error, found, source = _check_object(found, renamed, text)
        yield Line(number, end, {} if error else found, error, source)


def _check_object(
    found: Any, renamed: Mapping[str, str], text: str
) -> tuple[str, dict[str, Any], str | dict[str, Any]]:
    """Return what is wrong with it, its members by field, and the row to reject."""
    if not isinstance(found, dict):
        return "A line must be a JSON object.", {}, text
    if not found:
        return "The object is empty.", {}, found
    members = {
        field: value
        for name, value in found.items()
        if (field := renamed.get(name, name))
    }
    if unknown := [name for name in members if name not in KNOWN]:
        return f"Unknown: {', '.join(unknown)[:100]}.", {}, found
    return "", members, found


# --- workbooks


def _cells_of_sheet(line: _Physical) -> list[str]:
    found: list[str] = [] if line.fault else orjson.loads(line.text)
    return found


def _header_of_sheet(lines: Iterator[_Physical]) -> list[str]:
    for line in lines:
        if any(cells := _cells_of_sheet(line)):
            return _trim(cells)
    return []


def _trim(header: list[str]) -> list[str]:
    """Return the names of the columns without the empty ones at the end."""
    header = [name.strip() for name in header]
    while header and not header[-1]:
        header.pop()
    if any("\0" in name for name in header):
        raise Unreadable("This is a binary file.")
    if len(header) > COLUMNS_MAX:
        raise Unreadable(f"The file has more than {COLUMNS_MAX} columns.")
    return header


def _read_sheet(lines: Iterator[_Physical], columns: _Columns) -> Iterator[Line]:
    for line in lines:
        cells, error = _cells_of_sheet(line), line.fault
        found: Mapping[str, Any] = {}
        try:
            found = columns.assign(cells)
        except ValueError as reason:
            error = str(reason)
        yield Line(line.number, line.end, found, error, cells)


# --- CSV


def _header_of_csv(lines: Iterator[_Physical]) -> tuple[str, list[str]]:
    """Return the separator and the names of the columns.

    A line `sep=;`, with which spreadsheets name the separator, may come first, and
    rows that are empty.
    """
    named = ""
    for line in lines:
        if line.fault and not line.text:
            raise Unreadable  # the line is too long
        text = line.text.rstrip("\r\n")
        if not named and text[:4].lower() == "sep=" and len(text) == 5:
            named = text[4]
            if named == '"' or named.isalnum() or (named.isspace() and named != "\t"):
                raise Unreadable(f"The first line says {text}, which cannot separate.")
            continue
        if not text.strip(SEPARATORS + named + ' "'):
            continue
        separator = named or max(SEPARATORS, key=text.count)
        rows = _read_rows(chain([line], lines), separator)
        _, cells, error = next(rows)
        if error:
            raise Unreadable(f"The first line is not CSV: {error}")
        return separator, _trim(cells)
    return ",", []


def _read_csv(
    lines: Iterator[_Physical], separator: str, columns: _Columns
) -> Iterator[Line]:
    for row, cells, error in _read_rows(lines, separator):
        for line in row:
            error = line.fault or error
        cells = list(map(unescape, cells))
        found: Mapping[str, Any] = {}
        if not error:
            try:
                found = columns.assign(cells)
            except ValueError as reason:
                error = str(reason)
        source: list[str] | str = cells
        if error:
            source = "".join(line.text for line in row).rstrip("\r\n")
        yield Line(line.number, line.end, found, error, source)


def _read_rows(
    lines: Iterator[_Physical], separator: str
) -> Iterator[tuple[list[_Physical], list[str], str]]:
    """Yield the lines of each row, with its cells or an error.

    A quote that is not closed must not swallow the rows after it: of a row that is not
    CSV the first line is rejected, and reading continues at the second.
    """
    waiting: deque[_Physical] = deque()  # to be read a second time
    unclosed = 0  # a quote open after a line before this one is never closed

    def take() -> Iterator[str]:
        """Yield the lines of a row: the csv reader takes one more in an open quote."""
        while line := waiting.popleft() if waiting else next(lines, None):
            row.append(line)
            yield line.text
            if line.number < unclosed or line.end - row[0].end > ROW_MAX_BYTES:
                return

    while True:
        row: list[_Physical] = []
        try:
            cells = next(csv.reader(take(), delimiter=separator, strict=True), None)
        except csv.Error as reason:
            # A quote that one of these lines opens ends as this one did, and need not
            # be followed again: no line is read more than twice.
            unclosed = max(unclosed, row[-1].number)
            waiting.extendleft(reversed(row[1:]))
            yield row[:1], [], f"This is not CSV: {UNCLOSED.get(str(reason), reason)}."
        else:
            if cells is None:
                return
            yield row, cells, ""
