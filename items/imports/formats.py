"""Formats of import files, and their content as lines of text.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any

import orjson

from resilient_site.errors import Invalid

LINE_MAX_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024
SHEET_MAX_ROWS = 1_048_576  # Excel's own
COLUMNS_MAX = 200

# What a file may be in, with the name for people. The line end is one byte in each,
# but in UTF-16.
ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "cp1252": "Windows-1252, Western European",
    "cp1250": "Windows-1250, Central European",
    "cp1251": "Windows-1251, Cyrillic",
    "cp1253": "Windows-1253, Greek",
    "cp1254": "Windows-1254, Turkish",
    "iso8859-15": "ISO 8859-15 (Latin 9)",
    "cp850": "Code page 850, DOS",
    "mac-roman": "Mac Roman",
    "cp932": "Shift JIS, Japanese",
    "gb18030": "GB 18030, Chinese",
}
DUPLICATES = {
    "reject": "Reject all but the first",
    "last": "The last one counts",
}
KINDS = {
    "csv": "CSV",
    "ndjson": "NDJSON",
    "json": "a JSON array",
    "xlsx": "an Excel workbook",
}
# Files that are often taken for a table, by their first bytes.
OTHERS = (
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"GIF8", "an image (GIF)"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file, such as .xls, or one with a password",
    ),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"BZh", "a file compressed with bzip2"),
    (b"\xfd7zXZ\0", "a file compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "a file compressed with Zstandard"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
)
SAVE_AS = "Save it as CSV or .xlsx."
_MARKUP = re.compile(rb"<(!doctype html|html|\?xml)", re.IGNORECASE)
# How a workbook writes characters that XML has not (ECMA-376, ST_Xstring).
_ESCAPED = re.compile("_x((?![Dd][89A-Fa-f])[0-9A-Fa-f]{4})_")


class Unreadable(Invalid):
    code = "unreadable_file"
    detail = (
        "This is not a file of items. It must be CSV with a header line, a JSON array, "
        "NDJSON with one object on each line, or an Excel workbook (.xlsx)."
    )


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """What is chosen for a file, completed by `recognize` from its content."""

    encoding: str = ""
    sheet: str = ""  # of a workbook
    # Column of the file to field; to nothing: the column is left out.
    columns: Mapping[str, str] = field(default_factory=dict)
    duplicates: str = "reject"
    # --- recognized
    kind: str = ""
    sheets: Sequence[str] = ()
    # Written out as lines already: see `open_lines`.
    is_prepared: bool = False

    @property
    def is_json(self) -> bool:
        """Whether a row is an object."""
        return self.kind in ("ndjson", "json")

    @property
    def description(self) -> str:
        """What was found in the file, for people."""
        kind = KINDS.get(self.kind, "")
        if self.kind == "xlsx":
            return f"{kind}, sheet “{self.sheet}”"
        return f"{kind} in {ENCODINGS[self.encoding]}" if self.encoding else kind


def recognize(
    stream: io.BufferedReader,
    chosen: FileFormat | None = None,
    *,
    max_bytes: int | None = None,
) -> FileFormat:
    """Return the format of the file that begins in `stream`, and rewind.

    Raises Unreadable if it is another kind of file, which it names.
    """
    chosen = chosen or FileFormat()
    head = _head(stream)
    if head.startswith(b"PK\x03\x04"):
        with _unpacked_copy(stream, max_bytes) as file:
            form = _recognize_zip(file, head, chosen, max_bytes)
        stream.seek(0)
        return form
    for magic, name in OTHERS:
        if head.startswith(magic):
            raise Unreadable(f"This is {name}. {SAVE_AS}")
    encoding = chosen.encoding or _encoding_of_mark(head)
    if not encoding and b"\0" in head.partition(b"\n")[0]:
        raise Unreadable(f"This is a binary file. {SAVE_AS}")
    if not encoding:
        encoding = _guess_encoding(pieces(_unpacked(stream), max_bytes))
        stream.seek(0)
    if encoding == "utf-16":
        start = codecs.decode(head[: len(head) // 2 * 2], _utf16(head), "replace")
    else:
        start = head.removeprefix(codecs.BOM_UTF8).decode(encoding, "replace")
    start = start.lstrip("\ufeff \t\r\n")
    if _MARKUP.match(start[:20].encode()):
        raise Unreadable(f"This is a page of HTML or XML. {SAVE_AS}")
    kind = {"{": "ndjson", "[": "json"}.get(start[:1], "csv")
    return replace(chosen, kind=kind, encoding=encoding)


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
    stream = _unpacked(stream)
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


def _head(stream: io.BufferedReader) -> bytes:
    """Return the first bytes, uncompressed."""
    head = stream.peek(PIECE_BYTES)
    if not head.startswith(b"\x1f\x8b"):
        return head
    with damage_reported():
        return zlib.decompressobj(31).decompress(head, PIECE_BYTES)


def _unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    if stream.peek(2)[:2] == b"\x1f\x8b":
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


def _encoding_of_mark(head: bytes) -> str:
    """Return the encoding that a byte order mark, or the nulls of UTF-16, show."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    nulls = max(head[0:512:2].count(0), head[1:512:2].count(0))
    return "utf-16" if nulls > len(head[:512]) // 5 else ""


def _utf16(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    big = head[0:512:2].count(0) > head[1:512:2].count(0)
    return "utf-16-be" if big else "utf-16-le"


def _guess_encoding(pieces: Iterator[bytes]) -> str:
    """Return UTF-8, or the encoding of Western Windows if more bytes speak for it.

    Other encodings cannot be distinguished from it, so that the choice is shown.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    valid = invalid = 0
    # A damaged file is reported when its rows up to there have been read.
    with suppress(*DAMAGE):
        for piece in pieces:
            if piece.isascii():
                continue
            text = decoder.decode(piece)
            if not text.isascii():
                wrong = len(re.findall("[\udc80-\udcff]", text))
                invalid += wrong
                valid += len(re.findall("[^\0-\x7f]", text)) - wrong
    return "cp1252" if invalid > valid else "utf-8"


def _texts(
    stream: io.BufferedReader, encoding: str, max_bytes: int | None
) -> Iterator[str]:
    codec = {"utf-8": "utf-8-sig"}.get(encoding, encoding)
    if encoding == "utf-16":
        codec = _utf16(stream.peek(512))
    errors = "surrogatepass" if encoding == "utf-16" else "strict"
    decoder = codecs.getincrementaldecoder(codec)(errors)
    try:
        with damage_reported():
            for piece in pieces(stream, max_bytes):
                yield decoder.decode(piece)
        yield decoder.decode(b"", True)
    except UnicodeError as error:
        name = ENCODINGS[encoding]
        raise Unreadable(f"The file is not text in {name}: {error}.") from error


def _as_utf8(texts: Iterable[str]) -> Iterator[bytes]:
    # Half a pair of UTF-16 becomes what no UTF-8 is: the line with it is rejected.
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
    if size > LINE_MAX_BYTES:
        return ""
    return "".join(islice(texts, 1 + size // PIECE_BYTES))


def _damaged_array(number: int) -> Unreadable:
    return Unreadable(
        f"The JSON array is damaged after entry {number:,}, or the next entry is "
        f"longer than {LINE_MAX_BYTES:,} bytes."
    )


# --- workbooks


def _recognize_zip(
    file: IO[bytes], head: bytes, chosen: FileFormat, max_bytes: int | None
) -> FileFormat:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:
        if b"[Content_Types].xml" in head:
            raise _damaged(error) from error
        raise Unreadable("This is a ZIP archive that is damaged.") from error
    if not any(name.startswith("xl/") for name in names):
        raise Unreadable(_name_archive(names))
    with _workbook(file, max_bytes) as workbook:
        sheets = [sheet.title for sheet in workbook.worksheets]
    sheet = chosen.sheet or sheets[0]
    if sheet not in sheets:
        raise Unreadable(
            f"The workbook has no sheet “{sheet[:50]}”. It has: {', '.join(sheets)}."
        )
    return replace(chosen, kind="xlsx", sheet=sheet, sheets=sheets, encoding="")


def _name_archive(names: Sequence[str]) -> str:
    if any(name.startswith(("word/", "ppt/")) for name in names):
        return f"This is an Office document, but no workbook. {SAVE_AS}"
    if "content.xml" in names:
        return f"This is an OpenDocument file. {SAVE_AS}"
    return "This is a ZIP archive. Unpack it, and import the file that is in it."


@contextmanager
def _unpacked_copy(
    stream: io.BufferedReader, max_bytes: int | None
) -> Iterator[IO[bytes]]:
    """Return the stream, or an unpacked copy: a workbook is read in any order."""
    if stream.peek(2)[:2] != b"\x1f\x8b":
        yield stream
        return
    with TemporaryFile() as copy:
        with damage_reported():
            copy.writelines(pieces(_unpacked(stream), max_bytes))
        copy.seek(0)
        yield copy


@contextmanager
def _workbook(file: IO[bytes], max_bytes: int | None) -> Iterator[Any]:
    import openpyxl  # 30 MB, for those processes that read a workbook

    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if max_bytes is not None and size > max_bytes:
            raise Unreadable(f"The file has more than {max_bytes:,} bytes, unpacked.")
        file.seek(0)
        # Cells of a formula have the value that was saved.
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
        if not workbook.worksheets:
            raise ValueError("it has no sheet")
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # the parser raises anything
        raise _damaged(error) from error
    with closing(workbook):
        yield workbook


def _damaged(error: Exception, place: str = "") -> Unreadable:
    return Unreadable(f"This is an Excel workbook that is damaged: {place}{error}")


def _sheet_rows(
    stream: io.BufferedReader, sheet: str, max_bytes: int | None
) -> Iterator[list[str]]:
    number = 0
    with (
        _unpacked_copy(stream, max_bytes) as file,
        _workbook(file, max_bytes) as workbook,
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
            raise _damaged(error, f"after row {number:,}: ") from error


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
