"""Reading files of items: CSV or NDJSON, gzip or not, told apart by their content.

Memory is bounded by the longest line, whatever the size of the file. A line that
cannot be read is reported and skipped; a file that is no file of items is refused.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from resilient_site.errors import Invalid

FIELDS = ("id", "name", "description", "tags")
# Columns of our own exports that the catalogue itself keeps.
IGNORED = ("version", "created_at", "updated_at")

LINE_MAX_BYTES = 1024 * 1024
TEXT_SHOWN = 500

csv.field_size_limit(LINE_MAX_BYTES)


class Unreadable(Invalid):
    code = "unreadable_file"
    detail = "This is not a file of items."


@dataclass(slots=True)
class Line:
    """One row of the file: its fields or an error, and the position behind it."""

    number: int
    end: int
    fields: Mapping[str, Any]
    text: str
    error: str = ""


def read_lines(
    stream: io.BufferedReader, *, offset: int = 0, line: int = 0
) -> Iterator[Line]:
    """Yield the rows behind `offset` (in uncompressed bytes) and `line`.

    Raises Unreadable if the file is not one of items, or is damaged.
    """
    try:
        content = _decompressed(stream)
        first = content.peek(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        if first.startswith(b"{"):
            yield from _read_ndjson(_Source(content).skip_to(offset, line))
        else:
            yield from _read_csv(_Source(content), offset, line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable(f"The compressed file is damaged: {error}.") from error


def _decompressed(stream: io.BufferedReader) -> io.BufferedReader:
    if stream.peek(2)[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    return stream


class _Source:
    """Lines of text, with the position behind the last one."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.stream = stream
        self.offset = 0
        self.line = 0
        self.too_long = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        raw = self.stream.readline(LINE_MAX_BYTES)
        if not raw:
            raise StopIteration
        self.line += 1
        self.offset += len(raw)
        self.too_long = len(raw) == LINE_MAX_BYTES and not raw.endswith(b"\n")
        if self.too_long:
            self._skip_rest_of_line()
        if self.line == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        # Bytes that are not UTF-8 become surrogates, which the rules refuse.
        return raw.decode("utf-8", "surrogateescape")

    def _skip_rest_of_line(self) -> None:
        while part := self.stream.readline(LINE_MAX_BYTES):
            self.offset += len(part)
            if part.endswith(b"\n"):
                return

    def skip_to(self, offset: int, line: int) -> Self:
        if offset > self.offset:
            missing = offset - self.offset
            while missing and (part := self.stream.read(min(missing, 1 << 20))):
                missing -= len(part)
            self.offset, self.line = offset, line
        return self


def _read_ndjson(source: _Source) -> Iterator[Line]:
    for text in source:
        if not text.strip():
            continue
        line = Line(source.line, source.offset, {}, text[:TEXT_SHOWN].rstrip("\n"))
        if source.too_long:
            line.error = f"The line is longer than {LINE_MAX_BYTES:,} bytes."
        else:
            try:
                found = orjson.loads(text.encode("utf-8", "surrogateescape"))
            except orjson.JSONDecodeError as error:
                line.error = f"This is not JSON: {error}."
            else:
                line.fields, line.error = _only_fields(found)
        yield line


def _only_fields(found: object) -> tuple[Mapping[str, Any], str]:
    if not isinstance(found, dict):
        return {}, "A line must be a JSON object."
    if unknown := [k for k in found if k not in FIELDS and k not in IGNORED]:
        return {}, f"Unknown: {', '.join(unknown)[:100]}."
    return found, ""


def _read_csv(source: _Source, offset: int, line: int) -> Iterator[Line]:
    header_text = next(source, None)
    if header_text is None:
        return  # no row at all, as an empty catalogue is exported
    separator = max(",;\t", key=header_text.count)
    header = _header(header_text, separator)
    source.skip_to(offset, line)
    rows = csv.reader(source, delimiter=separator, strict=True)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(source.line, source.offset, {}, "", f"This is not CSV: {error}.")
            continue
        if not cells:
            continue
        read = Line(source.line, source.offset, {}, separator.join(cells)[:TEXT_SHOWN])
        if source.too_long:
            read.error = f"The line is longer than {LINE_MAX_BYTES:,} bytes."
        elif len(cells) != len(header):
            read.error = f"Has {len(cells)} cells where the header has {len(header)}."
        else:
            read.fields = dict(zip(header, cells, strict=True))
        yield read


def _header(text: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error as error:
        raise Unreadable(f"The first line is not CSV: {error}.") from error
    header = [cell.strip().lower() for cell in cells]
    expected = f"The first line must name the columns: {', '.join(FIELDS)}."
    if "name" not in header:
        raise Unreadable(f"There is no column “name”. {expected}")
    if unknown := [c for c in header if c not in FIELDS and c not in IGNORED]:
        raise Unreadable(f"Unknown column “{unknown[0][:50]}”. {expected}")
    if len(set(header)) != len(header):
        raise Unreadable("A column is named twice in the first line.")
    return header
