"""Content of import files as lines of text.

CSV and NDJSON are read as they are. A workbook, a JSON array and UTF-16 become lines
while they are read: a row, or an entry, is one line of JSON. Memory is bounded by the
longest line; only the shared texts of a workbook are held.
"""

import codecs
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any

import orjson

from items.imports.formats import ENCODINGS, FileFormat, Unreadable

LINE_MAX_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024
GZIP = b"\x1f\x8b"
SHEET_MAX_ROWS = 1_048_576  # Excel's own
# How a workbook writes characters that XML has not (ECMA-376, ST_Xstring).
_ESCAPED = re.compile("_x((?![Dd][89A-Fa-f])[0-9A-Fa-f]{4})_")


def open_lines(
    stream: io.BufferedReader, form: FileFormat, *, max_bytes: int | None = None
) -> tuple[io.BufferedReader, str]:
    """Return the content of the file as lines, and the encoding of these.

    Raises Unreadable if a workbook is damaged or larger than `max_bytes`.
    """
    if form.is_prepared:
        return stream, "utf-8"
    if form.kind == "xlsx":
        rows = _sheet_rows(stream, form.sheet, max_bytes)
        return _stream(orjson.dumps(row) + b"\n" for row in rows), "utf-8"
    stream = unpacked(stream)
    if form.kind == "json":
        entries = _entries(_texts(stream, form.encoding, max_bytes))
        return _stream(_as_utf8(entries)), "utf-8"
    if form.encoding == "utf-16":
        texts = _texts(stream, form.encoding, None)  # its lines are limited
        return _line_feeds(_stream(_as_utf8(texts))), "utf-8"
    return _line_feeds(stream), form.encoding


class _Pieces(io.RawIOBase):
    """Stream of the pieces that an iterator makes; it is read forwards only."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _stream(pieces: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Pieces(pieces))


def pieces(stream: io.BufferedReader, max_bytes: int | None) -> Iterator[bytes]:
    """Yield the content; raises Unreadable if it is more than `max_bytes`."""
    size = 0
    while piece := stream.read(PIECE_BYTES):
        size += len(piece)
        if max_bytes is not None and size > max_bytes:
            raise Unreadable(f"The file has more than {max_bytes:,} bytes.")
        yield piece


# What the reader of a compressed file raises when it is damaged.
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


@contextmanager
def damage_reported() -> Iterator[None]:
    """Raise Unreadable where a compressed file turns out to be damaged."""
    try:
        yield
    except DAMAGE as error:
        raise Unreadable(f"The compressed file is damaged: {error}.") from error


def unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    if stream.peek().startswith(GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    return stream


def _line_feeds(stream: io.BufferedReader) -> io.BufferedReader:
    """Return the stream, with line feeds if its lines end with CR alone."""
    with damage_reported():
        head = stream.peek(PIECE_BYTES)
    if b"\n" in head or b"\r" not in head[:-1]:
        return stream
    return _stream(piece.replace(b"\r", b"\n") for piece in pieces(stream, None))


# --- encodings


def utf16_codec(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = utf16_nulls(head)
    return "utf-16-be" if even > odd else "utf-16-le"


def utf16_nulls(head: bytes) -> tuple[int, int]:
    """Return how many nulls are at the first bytes of pairs, and at the second."""
    return head[:512:2].count(0), head[1:512:2].count(0)


def _texts(
    stream: io.BufferedReader, encoding: str, max_bytes: int | None
) -> Iterator[str]:
    try:
        with damage_reported():
            codec = utf16_codec(stream.peek()) if encoding == "utf-16" else encoding
            decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
            for piece in pieces(stream, max_bytes):
                yield decoder.decode(piece)
        yield decoder.decode(b"", True)
    except UnicodeError as error:
        name = ENCODINGS[encoding]
        raise Unreadable(f"The file is not text in {name}: {error}.") from error


def _as_utf8(texts: Iterable[str]) -> Iterator[bytes]:
    # Half a pair of surrogates becomes what no UTF-8 is: the line is rejected.
    return (text.encode("utf-8", "surrogatepass") for text in texts)


# --- JSON arrays

_SPACE = " \t\r\n"
_AFTER_ENTRY = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")


def _entries(texts: Iterator[str]) -> Iterator[str]:
    """Yield the entries of an array as they are, each on a line of its own.

    Here they are only separated: what is wrong in one is for the reader of its line
    to say.
    """
    decoder = json.JSONDecoder(parse_int=len, parse_float=len)  # of any length
    rest = next(texts).lstrip("\ufeff" + _SPACE)[1:].lstrip(_SPACE)
    number = place = 0
    is_open = True
    while is_open:
        after = None
        if not number and rest[:1] == "]":
            place, is_open = 1, False
            continue
        with suppress(ValueError, RecursionError):
            end = decoder.raw_decode(rest, place)[1]
            after = _AFTER_ENTRY.match(rest, end)
        if after:
            # No line feed is within a string: that would be no JSON.
            yield rest[place:end].replace("\n", " ") + "\n"
            number, place, is_open = number + 1, after.end(), after[1] == ","
        elif more := _more(texts, len(rest) - place):
            rest, place = (rest[place:] + more).lstrip(_SPACE), 0
        else:
            raise _damaged_array(number)
    if rest[place:].strip(_SPACE) or any(text.strip(_SPACE) for text in texts):
        raise _damaged_array(number)


def _more(texts: Iterator[str], size: int) -> str:
    """Return as much again, so that a long entry is not tried for every piece."""
    pieces = 1 + size // PIECE_BYTES if size <= LINE_MAX_BYTES else 0
    return "".join(islice(texts, pieces))


def _damaged_array(number: int) -> Unreadable:
    return Unreadable(
        f"The JSON array is damaged after entry {number:,}, or the next entry is "
        f"longer than {LINE_MAX_BYTES:,} bytes."
    )


# --- workbooks


@contextmanager
def unpacked_copy(
    stream: io.BufferedReader, max_bytes: int | None
) -> Iterator[IO[bytes]]:
    """Return the stream, or an unpacked copy: a workbook is read in any order."""
    if not stream.peek().startswith(GZIP):
        yield stream
        return
    with TemporaryFile() as copy:
        with damage_reported():
            copy.writelines(pieces(unpacked(stream), max_bytes))
        yield copy


@contextmanager
def open_workbook(file: IO[bytes], max_bytes: int | None) -> Iterator[Any]:
    import openpyxl  # 30 MB, for those processes that read a workbook

    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if max_bytes is not None and size > max_bytes:
            raise Unreadable(f"The file has more than {max_bytes:,} bytes, unpacked.")
        # Cells of a formula have the value that was saved.
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
        if not workbook.worksheets:
            raise ValueError("it has no sheet")
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # the parser raises anything
        raise damaged_workbook(error) from error
    with closing(workbook):
        yield workbook


def damaged_workbook(error: Exception, place: str = "") -> Unreadable:
    return Unreadable(f"This is an Excel workbook that is damaged: {place}{error}")


def _sheet_rows(
    stream: io.BufferedReader, sheet: str, max_bytes: int | None
) -> Iterator[list[str]]:
    number = 0
    with (
        unpacked_copy(stream, max_bytes) as file,
        open_workbook(file, max_bytes) as workbook,
    ):
        try:
            rows = workbook[sheet]
            rows.reset_dimensions()  # what the file says of them may be wrong
            for number, row in enumerate(rows.iter_rows(values_only=True), 1):
                if number > SHEET_MAX_ROWS:
                    raise Unreadable(
                        f"The sheet has more than {SHEET_MAX_ROWS:,} rows."
                    )
                yield [_cell_text(value) for value in row]
        except (Unreadable, MemoryError):
            raise
        except Exception as error:
            raise damaged_workbook(error, f"after row {number:,}: ") from error


def _cell_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)
        case bool():
            return str(value).upper()
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)
