"""Recognition of the format of an import file, by its content.

Other kinds of files that people take for a table are named.
"""

import codecs
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO

from items.imports.file_lines import (
    DAMAGE,
    PIECE_BYTES,
    damage_reported,
    damaged_workbook,
    open_workbook,
    pieces,
    unpacked,
    unpacked_copy,
    utf16_codec,
    utf16_nulls,
)
from items.imports.formats import FileFormat, Unreadable

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
_MARKUP = re.compile(r"<(!doctype html|html|\?xml)", re.IGNORECASE)


def recognize(
    stream: io.BufferedReader,
    chosen: FileFormat | None = None,
    *,
    max_bytes: int | None = None,
) -> FileFormat:
    """Return the format of the file that begins in `stream`.

    Raises Unreadable if it is another kind of file, which it names.
    """
    chosen = chosen or FileFormat()
    head = _head(stream)
    if head.startswith(b"PK\x03\x04"):
        with unpacked_copy(stream, max_bytes) as file:
            return _recognize_zip(file, head, chosen, max_bytes)
    for magic, name in OTHERS:
        if head.startswith(magic):
            raise Unreadable(f"This is {name}. {SAVE_AS}")
    encoding = chosen.encoding or _encoding_of_mark(head)
    if not encoding and b"\0" in head.partition(b"\n")[0]:
        raise Unreadable(f"This is a binary file. {SAVE_AS}")
    if not encoding:
        encoding = _guess_encoding(pieces(unpacked(stream), max_bytes))
    if encoding == "utf-16":
        start = head.decode(utf16_codec(head), "replace")
    else:
        start = head.decode(encoding, "replace")
    start = start.lstrip("\ufeff \t\r\n")
    if _MARKUP.match(start):
        raise Unreadable(f"This is a page of HTML or XML. {SAVE_AS}")
    kind = {"{": "ndjson", "[": "json"}.get(start[:1], "csv")
    return replace(chosen, kind=kind, encoding=encoding)


def _head(stream: io.BufferedReader) -> bytes:
    """Return the first bytes, uncompressed."""
    head = stream.peek(PIECE_BYTES)
    if not head.startswith(b"\x1f\x8b"):
        return head
    with damage_reported():
        return zlib.decompressobj(31).decompress(head, PIECE_BYTES)


def _encoding_of_mark(head: bytes) -> str:
    """Return the encoding that a byte order mark, or the nulls of UTF-16, show."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-16" if max(utf16_nulls(head)) > len(head[:512]) // 5 else ""


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


def _recognize_zip(
    file: IO[bytes], head: bytes, chosen: FileFormat, max_bytes: int | None
) -> FileFormat:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:
        if b"[Content_Types].xml" in head:
            raise damaged_workbook(error) from error
        raise Unreadable("This is a ZIP archive that is damaged.") from error
    if not any(name.startswith("xl/") for name in names):
        raise Unreadable(_name_archive(names))
    with open_workbook(file, max_bytes) as workbook:
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
