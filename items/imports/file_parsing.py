"""Parsing of import files: CSV or NDJSON, gzip or not, recognized by their content.

Memory is bounded by the longest line, whatever the size of the file. A line that
cannot be read is reported, and reading continues after it; a file that is not one of
items is rejected.
"""

import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from items import fields
from resilient_site.api.csv_escaping import unescape
from resilient_site.errors import Invalid

COLUMNS = [field.name for field in fields.FIELDS]
KNOWN = {*COLUMNS, *fields.READ_ONLY}  # what an export has
REQUIRED = [field.name for field in fields.FIELDS if field.is_required]

LINE_MAX_BYTES = 1024 * 1024
# Well over what the rules allow in one row, however it is written.
ROW_MAX_BYTES = 256 * 1024
TEXT_SHOWN = 500

csv.field_size_limit(LINE_MAX_BYTES)
# The csv module's error for a quote that is never closed.
UNCLOSED = {"unexpected end of data": "a quote is opened and not closed"}


class Unreadable(Invalid):
    code = "unreadable_file"
    detail = (
        "This is not a file of items. It must be CSV with a header line, or NDJSON "
        "with one object on each line."
    )


@dataclass(slots=True)
class Line:
    """One row of the file: its fields or an error, and the position after it.

    An empty line has neither.
    """

    number: int
    end: int
    text: str
    fields: Mapping[str, Any]
    error: str


def read_lines(
    stream: io.BufferedReader,
    *,
    offset: int = 0,
    line: int = 0,
    max_bytes: int | None = None,
) -> Iterator[Line]:
    """Yield the rows after `offset` (in uncompressed bytes) and `line`.

    Raises Unreadable if the file is not one of items, is damaged, or is larger than
    `max_bytes` when unpacked.
    """
    try:
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
        first = stream.peek(4096)
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Unreadable("The file is in UTF-16. Save it as UTF-8.")
        is_csv = not first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        lines = _read_physical(stream, 0, 0, max_bytes)
        header = next(lines, None) if is_csv else None
        if offset:
            stream.seek(offset)
            lines = _read_physical(stream, offset, line, max_bytes)
        if header:
            yield from _read_csv(header.text, lines)
        elif not is_csv:  # else it is empty, as an empty catalogue is exported
            yield from _read_ndjson(lines)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable(f"The compressed file is damaged: {error}.") from error


class _Physical(NamedTuple):
    """A physical line, and the position after it."""

    text: str
    number: int
    end: int
    fault: str = ""


def _read_physical(
    stream: io.BufferedReader, offset: int, number: int, max_bytes: int | None
) -> Iterator[_Physical]:
    def read() -> bytes:
        nonlocal offset
        raw = stream.readline(LINE_MAX_BYTES)
        offset += len(raw)
        if max_bytes is not None and offset > max_bytes:
            raise Unreadable(f"The file has more than {max_bytes:,} bytes.")
        return raw

    while raw := read():
        number += 1
        text = fault = ""
        if len(raw) == LINE_MAX_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = read()
            fault = f"The line is longer than {LINE_MAX_BYTES:,} bytes."
        else:
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                text = raw.decode(errors="backslashreplace")
                fault = "The line is not UTF-8 text."
        if number == 1:
            text = text.removeprefix("\ufeff")
        yield _Physical(text, number, offset, fault)


def _read_ndjson(lines: Iterator[_Physical]) -> Iterator[Line]:
    for text, number, end, fault in lines:
        fields: Mapping[str, Any] = {}
        error = fault
        if text.strip() and not error:
            try:
                found = orjson.loads(text)
            except orjson.JSONDecodeError as reason:
                error = f"This is not JSON: {reason}."
            else:
                if not isinstance(found, dict):
                    error = "A line must be a JSON object."
                elif unknown := [name for name in found if name not in KNOWN]:
                    error = f"Unknown: {', '.join(unknown)[:100]}."
                elif not found:
                    error = "The object is empty."
                else:
                    fields = found
        yield Line(number, end, text[:TEXT_SHOWN].rstrip("\n"), fields, error)


def _read_csv(header_text: str, lines: Iterator[_Physical]) -> Iterator[Line]:
    if not header_text:
        raise Unreadable  # the line is too long
    separator = max(",;\t", key=header_text.count)
    header = _header(header_text, separator)
    for row, cells, error in _read_rows(lines, separator):
        for line in row:
            error = line.fault or error
        fields: Mapping[str, Any] = {}
        if cells and not error:
            if len(cells) == len(header):
                fields = dict(zip(header, map(unescape, cells), strict=True))
            else:
                error = f"Has {len(cells)} cells where the header has {len(header)}."
        text = "".join(line.text for line in row)[:TEXT_SHOWN].rstrip("\r\n")
        yield Line(line.number, line.end, text, fields, error)


def _read_rows(
    lines: Iterator[_Physical], separator: str
) -> Iterator[tuple[list[_Physical], list[str], str]]:
    """Yield the lines of each row, with its cells or an error.

    A quote that is not closed must not swallow the rows after it: of a row that is not
    CSV the first line is rejected, and reading continues at the second.
    """
    waiting: deque[_Physical] = deque()  # to be read a second time
    unclosed = 0  # a quote open after a line up to this one is never closed

    def take() -> Iterator[str]:
        """Yield the lines of a row: the csv reader takes one more in an open quote."""
        while line := waiting.popleft() if waiting else next(lines, None):
            row.append(line)
            yield line.text
            if line.number <= unclosed or line.end - row[0].end > ROW_MAX_BYTES:
                return

    while True:
        row: list[_Physical] = []
        try:
            cells = next(csv.reader(take(), delimiter=separator, strict=True), None)
        except csv.Error as reason:
            # A quote that one of these lines opens ends as this one did, and need not
            # be followed again: no line is read more than twice.
            unclosed = max(unclosed, row[-1].number - 1)
            waiting.extendleft(reversed(row[1:]))
            yield row[:1], [], f"This is not CSV: {UNCLOSED.get(str(reason), reason)}."
        else:
            if cells is None:
                return
            yield row, cells, ""


def _header(text: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise Unreadable(f"The first line is not CSV: {error}.") from error
    header = [cell.strip().lower() for cell in cells]
    expected = f"The first line must name the columns: {', '.join(COLUMNS)}."
    if missing := [name for name in REQUIRED if name not in header]:
        raise Unreadable(f"There is no column “{missing[0]}”. {expected}")
    if unknown := [cell for cell in header if cell not in KNOWN]:
        raise Unreadable(f"Unknown column “{unknown[0][:50]}”. {expected}")
    if len(set(header)) != len(header):
        raise Unreadable("A column is named twice in the first line.")
    return header
