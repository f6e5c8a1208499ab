"""Compressed files, workbooks, arrays and UTF-16 as lines, and their limits."""

import gzip
import io
import json
import re
import zipfile

import pytest

from items.imports.file_parsing import read_rows
from items.imports.formats import Unreadable
from items.imports.recognition import recognize
from tests.items.imports.cases import workbook
from tests.items.imports.factories import lines, stream


@pytest.mark.once
def test_file_is_not_read_beyond_its_limit():
    content = gzip.compress(b"name\n" + b"\n" * 100_000)
    with pytest.raises(Unreadable, match="more than 50,000 bytes"):
        lines(content, max_bytes=50_000)


def repack(content: bytes, name: str, wrong: bytes, right: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.namelist():
            part = old.read(entry)
            if entry.endswith(name):
                assert wrong in part
                part = part.replace(wrong, right)
            new.writestr(entry, part)
    return file.getvalue()


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "wrong", "right", "reason"),
    [
        ("sheet1.xml", b'r="2"', b'r="2000000000"', "more than 1,048,576 rows"),
        ("sheet1.xml", b"</row>", b"", "damaged: after row"),
        ("sheet1.xml", b'"UTF-8"', b'"none"', "damaged: unknown encoding"),
        ("workbook.xml", b'"UTF-8"', b'"none"', "damaged: unknown encoding"),
        ("Strings.xml", b"?>", b'?><!DOCTYPE t [<!ENTITY e "x">]>', "damaged"),
        ("sheet1.xml", b"</sheetData>", b" " * 10_000 + b"</sheetData>", "more than"),
    ],
)
def test_malicious_workbook_is_rejected(name, wrong, right, reason):
    content = repack(workbook([["id", "name"], ["1", "a"]]), name, wrong, right)
    with pytest.raises(Unreadable, match=reason):
        lines(content, max_bytes=12_000 if reason == "more than" else None)


@pytest.mark.once
def test_encrypted_workbook_is_rejected():
    content = bytearray(workbook([["id", "name"], ["1", "a"]]))
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for entry in re.finditer(re.escape(magic), bytes(content)):
            content[entry.start() + flags] |= 1
    with pytest.raises(Unreadable, match="damaged: .* is encrypted"):
        lines(bytes(content))


@pytest.mark.once
def test_entry_of_an_array_is_limited_and_an_array_is_not():
    entry = json.dumps({"name": "n", "description": "d" * 100_000})
    found = lines(f"[{','.join([entry] * 30)}]")
    assert [line.error for line in found] == [""] * 30
    long = json.dumps({"name": "n" * 2_200_000})
    with pytest.raises(Unreadable, match="entry is longer than 1,048,576 bytes"):
        lines(f"[{entry},{long}]")


@pytest.mark.once
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_file_may_have_as_many_bytes_as_the_limit(encoding):
    content = "id,name\n1,Weiss\n".replace("ss", "s" if encoding == "ascii" else "ß")
    raw = content.encode(encoding)
    text = content.encode("utf-8") if encoding == "utf-16" else raw
    form = recognize(stream(raw), max_bytes=len(raw))
    for most in (len(text), len(text) - 1):
        rows = read_rows(stream(raw), form, max_bytes=most).lines
        if most == len(text):
            assert [line.error for line in rows] == [""]
        else:
            with pytest.raises(Unreadable, match=f"more than {most} bytes"):
                list(rows)
