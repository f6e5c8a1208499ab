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
from typing import Any, NamedTuple, Self

import orjson

from items import fields
from items.fields import READ_ONLY
from resilient_site.api.csv_escaping import unescape
from resilient_site.errors import Invalid

COLUMNS = [field.name for field in fields.FIELDS]
REQUIRED = [field.name for field in fields.FIELDS if field.is_required]

LINE_MAX_BYTES = 1024 * 1024
# Well over what the rules allow in one row, however it is written.
ROW_MAX_BYTES = 256 * 1024
ROW_LINES_TRIED = 50
TEXT_SHOWN = 500

csv.field_size_limit(LINE_MAX_BYTES)


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
    fields: Mapping[str, Any]
    text: str
    error: str = ""


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
        content = _decompressed(stream)
        first = content.peek(4096)
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Unreadable("The file is in UTF-16. Save it as UTF-8.")
        source = _Source(content, max_bytes)
        if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            yield from _read_ndjson(source.skip_to(offset, line))
        else:
            yield from _read_csv(source, offset, line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable(f"The compressed file is damaged: {error}.") from error


def _decompressed(stream: io.BufferedReader) -> io.BufferedReader:
    if stream.peek(2)[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    return stream


class _Text(NamedTuple):
    """A physical line, and the position after it."""

    text: str
    line: int
    offset: int
    fault: str = ""


class _RowTooLong(csv.Error):
    """The lines of one row are longer than a row may be."""


class _Source:
    """Iterator of physical lines; those in `taken` can be put back."""

    def __init__(self, stream: io.BufferedReader, max_bytes: int | None) -> None:
        self.stream = stream
        self.max_bytes = max_bytes
        self.offset = self.line = 0  # after the last line that was returned
        self.read_offset = self.read_line = 0
        self.waiting: deque[_Text] = deque()
        self.taken: list[_Text] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else self._read()
        self.line, self.offset = line.line, line.offset
        self.taken.append(line)
        if len(self.taken) > 1 and line.offset - self.taken[0].offset > ROW_MAX_BYTES:
            raise _RowTooLong
        return line.text

    def _read(self) -> _Text:
        raw = self.stream.readline(LINE_MAX_BYTES)
        if not raw:
            raise StopIteration
        self.read_line += 1
        self._count(raw)
        if len(raw) == LINE_MAX_BYTES and not raw.endswith(b"\n"):
            self._skip_rest_of_line()
            fault = f"The line is longer than {LINE_MAX_BYTES:,} bytes."
            return _Text("", self.read_line, self.read_offset, fault)
        if self.read_line == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        fault = ""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode(errors="backslashreplace")
            fault = "The line is not UTF-8 text."
        return _Text(text, self.read_line, self.read_offset, fault)

    def _skip_rest_of_line(self) -> None:
        while part := self.stream.readline(LINE_MAX_BYTES):
            self._count(part)
            if part.endswith(b"\n"):
                return

    def _count(self, raw: bytes) -> None:
        self.read_offset += len(raw)
        if self.max_bytes is not None and self.read_offset > self.max_bytes:
            raise Unreadable(f"The file has more than {self.max_bytes:,} bytes.")

    def drop_first(self) -> _Text:
        """Return the first line taken, and put the others back."""
        first, *others = self.taken
        self.waiting.extendleft(reversed(others))
        self.line, self.offset = first.line, first.offset
        return first

    def skip_to(self, offset: int, line: int) -> Self:
        if offset > self.offset:
            missing = offset - self.offset
            while missing and (part := self.stream.read(min(missing, 1 << 20))):
                missing -= len(part)
            self.read_offset, self.read_line = offset, line
            self.offset, self.line = offset, line
        return self


def _read_ndjson(source: _Source) -> Iterator[Line]:
    while True:
        source.taken.clear()
        if (text := next(source, None)) is None:
            return
        line = Line(source.line, source.offset, {}, text[:TEXT_SHOWN].rstrip("\n"))
        line.error = source.taken[0].fault
        if text.strip() and not line.error:
            try:
                found = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                line.error = f"This is not JSON: {error}."
            else:
                line.fields, line.error = _only_fields(found)
        yield line


def _only_fields(found: object) -> tuple[Mapping[str, Any], str]:
    if not isinstance(found, dict):
        return {}, "A line must be a JSON object."
    if unknown := [k for k in found if k not in COLUMNS and k not in READ_ONLY]:
        return {}, f"Unknown: {', '.join(unknown)[:100]}."
    return found, "" if found else "The object is empty."


def _read_csv(source: _Source, offset: int, line: int) -> Iterator[Line]:
    """Yield the rows of a CSV file.

    A quote that is not closed must not swallow the rows after it, so after an error
    reading continues at the second line. Where many lines were read in vain, each of
    them is a row of its own from then on: the same could happen at every one of them.
    """
    if (header_text := next(source, None)) is None:
        return  # an empty catalogue is exported as an empty file
    if not header_text:
        raise Unreadable  # the line is too long
    separator = max(",;\t", key=header_text.count)
    header = _header(header_text, separator)
    source.skip_to(offset, line)
    options: Any = {"delimiter": separator, "strict": True}
    rows, alone_until = csv.reader(source, **options), 0
    while True:
        source.taken.clear()
        try:
            if source.line < alone_until:
                cells = next(csv.reader([next(source)], **options), [])
            else:
                cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if len(source.taken) > ROW_LINES_TRIED or isinstance(error, _RowTooLong):
                alone_until = source.line
            first = source.drop_first()
            rows = csv.reader(source, **options)
            text = first.text[:TEXT_SHOWN].rstrip("\r\n")
            reason = first.fault or f"This is not CSV: {_explain(error)}."
            yield Line(first.line, first.offset, {}, text, reason)
            continue
        row = Line(source.line, source.offset, {}, separator.join(cells)[:TEXT_SHOWN])
        row.error = next((taken.fault for taken in source.taken if taken.fault), "")
        if cells and not row.error:
            if len(cells) == len(header):
                row.fields = dict(zip(header, map(unescape, cells), strict=True))
            else:
                row.error = (
                    f"Has {len(cells)} cells where the header has {len(header)}."
                )
        yield row


def _explain(error: csv.Error) -> str:
    # The csv module's error for a quote that is never closed.
    if isinstance(error, _RowTooLong) or str(error) == "unexpected end of data":
        return "a quote is opened and not closed"
    return str(error)


def _header(text: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise Unreadable(f"The first line is not CSV: {error}.") from error
    header = [cell.strip().lower() for cell in cells]
    expected = f"The first line must name the columns: {', '.join(COLUMNS)}."
    if missing := [name for name in REQUIRED if name not in header]:
        raise Unreadable(f"There is no column “{missing[0]}”. {expected}")
    if unknown := [c for c in header if c not in COLUMNS and c not in READ_ONLY]:
        raise Unreadable(f"Unknown column “{unknown[0][:50]}”. {expected}")
    if len(set(header)) != len(header):
        raise Unreadable("A column is named twice in the first line.")
    return header
