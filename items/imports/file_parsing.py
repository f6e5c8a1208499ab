"""Parsing of import files into rows, each with the fields of an item.

Memory is bounded by the longest line, whatever the size of the file. A line that
cannot be read is reported, and reading continues after it; a file that is not one of
items is rejected. `recognition` says what a file is, and `file_lines` makes its lines.
"""

import csv
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import orjson

from items.imports.columns import (
    COLUMNS_MAX,
    KNOWN,
    Columns,
    assign_columns,
    find_field,
)
from items.imports.file_lines import LINE_MAX_BYTES, damage_reported, open_lines
from items.imports.formats import ENCODINGS, FileFormat, Unreadable
from resilient_site.api.csv_escaping import unescape

# Well over what the rules allow in one row, however it is written.
ROW_MAX_BYTES = 256 * 1024

csv.field_size_limit(LINE_MAX_BYTES)
# The csv module's error for a quote that is never closed.
UNCLOSED = {"unexpected end of data": "a quote is opened and not closed"}
SEPARATORS = ",;\t|"


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
    fields: Sequence[str] = ()  # of the columns, empty where they are left out

    @property
    def delimiter(self) -> str:
        """The separator as it is chosen, one of `formats.DELIMITERS`."""
        return "tab" if self.separator == "\t" else self.separator


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
        chosen = "\t" if form.delimiter == "tab" else form.delimiter
        separator, header = _header_of_csv(lines, chosen)
    columns = assign_columns(header, form)
    if offset and content.seekable():
        content.seek(offset)
        lines = read(offset, line)
    elif offset:
        lines = (one for one in lines if one.end > offset)
    if form.is_json:
        return Rows(_read_objects(lines, form))
    if form.kind == "xlsx":
        return Rows(_read_sheet(lines, columns), header, fields=columns.fields)
    found = _read_csv(lines, separator, columns)
    return Rows(found, header, separator, columns.fields)


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
    members: dict[str, Any] = {}
    for name, value in found.items():
        field = renamed.get(name, name)
        if "." in field:
            field = find_field(field) or field
        if field in members:
            return f"There are two members “{field[:50]}”.", {}, found
        if field:
            members[field] = value
    unknown = [n for n in members if n not in KNOWN and not _is_member(n)]
    if unknown:
        return f"Unknown: {', '.join(unknown)[:100]}.", {}, found
    return "", members, found


def _is_member(name: str) -> bool:
    return "." in name and find_field(name) is not None


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


def _read_sheet(lines: Iterator[_Physical], columns: Columns) -> Iterator[Line]:
    for line in lines:
        cells, error = _cells_of_sheet(line), line.fault
        found: Mapping[str, Any] = {}
        if any(cells):  # what is empty at the end of a row, a sheet does not have
            cells += [""] * (len(columns.fields) - len(cells))
        try:
            found = columns.assign(cells)
        except ValueError as reason:
            error = str(reason)
        yield Line(line.number, line.end, found, error, cells)


# --- CSV


def _header_of_csv(lines: Iterator[_Physical], chosen: str) -> tuple[str, list[str]]:
    """Return the separator, unless it is chosen, and the names of the columns.

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
        separator = chosen or named or max(SEPARATORS, key=text.count)
        rows = _read_rows(chain([line], lines), separator)
        _, cells, error = next(rows)
        if error:
            raise Unreadable(f"The first line is not CSV: {error}")
        return separator, _trim(cells)
    return chosen or ",", []


def _read_csv(
    lines: Iterator[_Physical], separator: str, columns: Columns
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
