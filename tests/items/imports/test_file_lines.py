"""Compressed files, workbooks, arrays and UTF-16 as lines, and their limits."""

import datetime
import gzip
import io
import json
import re
import zipfile
from dataclasses import replace

import openpyxl
import pytest

from items.imports import file_lines
from items.imports.file_lines import open_lines
from items.imports.file_parsing import read_rows
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from tests.items.imports.cases import workbook
from tests.items.imports.factories import lines, stream


@pytest.mark.once
def test_file_is_not_read_beyond_its_limit():
    for content in (
        b"name\n" + b"\n" * 200_000,
        b"PK\3\4" + b" " * 200_000,
        b"\xef\xbb\xbfname\n" + b"\n" * 200_000,
        b"\xef\xbb\xbf[1" + b" " * 200_000,
    ):
        with pytest.raises(Unreadable, match="more than 150,000 bytes"):
            lines(gzip.compress(content), max_bytes=150_000)
    with pytest.raises(Unreadable, match="more than 150,000 bytes"):
        recognize(stream(b"name\n" + b"\n" * 200_000), max_bytes=150_000)


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
        ("sheet1.xml", b"</row>", b"", "damaged: after row 0"),
        ("sheet1.xml", b'"UTF-8"', b'"none"', "damaged: unknown encoding"),
        (
            "workbook.xml",
            b'<sheet name="First" sheetId="1" r:id="rId1"/>',
            b"",
            "no sheet",
        ),
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
def test_sheet_may_have_as_many_rows_as_the_limit(monkeypatch):
    monkeypatch.setattr(file_lines, "SHEET_MAX_ROWS", 3)
    content = workbook([["id", "name"], ["1", "a"], ["2", "b"]])
    assert len(lines(content)) == 2
    with pytest.raises(Unreadable, match="more than 3 rows"):
        lines(repack(content, "sheet1.xml", b'r="3"', b'r="2000000000"'))


@pytest.mark.once
def test_workbook_may_have_as_many_bytes_unpacked_as_the_limit():
    content = workbook([["id"], ["1"]])
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        size = sum(part.file_size for part in parts.infolist())
    assert len(lines(content, max_bytes=size)) == 1
    with pytest.raises(Unreadable, match="bytes, unpacked"):
        lines(content, max_bytes=size - 1)


@pytest.mark.once
def test_cells_of_a_workbook_become_text():
    """A formula is its value; escapes are characters, but no halves of a pair."""
    book, file = openpyxl.Workbook(), io.BytesIO()
    day = datetime.date(2026, 1, 2)
    book.active.append(["id", "name", "description", "tags"])
    book.active.append([1e20, True, day, "x_x0041_y_xD800_"])
    book.active.append([1.5, "_x005F_x0041_", None, datetime.time(1, 2)])
    book.save(file)
    first, second = lines(file.getvalue())
    assert [*first.fields.values()] == [
        "100000000000000000000",
        "TRUE",
        "2026-01-02T00:00:00",
        "xAy_xD800_",
    ]
    assert [*second.fields.values()] == ["1.5", "_x0041_", "", "01:02:00"]
    (row,) = lines(workbook([["name"], ["=1+1"]]))
    assert row.fields == {"name": "0"}


@pytest.mark.once
@pytest.mark.parametrize(
    "content",
    [
        "id,name\n1,a\n2,b\n3,c\n",
        "id,name\r1,a\r2,b\r3,c\r",
        "id,name\n1,a\n\n3,c\n".encode("utf-16"),
        '[{"id": 1}, {"id": 2},\n\n{"id": 3}]',
        workbook([["id", "name"], ["1", "a"], [], ["3", "c"]]),
        gzip.compress(workbook([["id"], ["1"], [2], [3]])),
        gzip.compress('{"id": 1}\n{"id": 2}\n{"id": 3}'.encode("utf-16")),
    ],
    ids=["CSV", "CR", "UTF-16", "array", "workbook", "packed workbook", "gzip"],
)
def test_reading_continues_after_any_row(content):
    form = recognize(stream(content))
    rows = list(read_rows(stream(content), form).lines)
    assert len(rows) == 3
    for number, row in enumerate(rows, 1):
        place = {"offset": row.end, "line": row.number}
        assert list(read_rows(stream(content), form, **place).lines) == rows[number:]
    if form.kind in ("json", "xlsx"):
        prepared = stream(open_lines(stream(content), form)[0].read())
        form = replace(form, is_prepared=True)
        assert list(read_rows(prepared, form).lines) == rows


@pytest.mark.once
def test_lines_end_with_cr_alone_or_as_usual():
    (line,) = lines("name\ra")
    assert (line.fields, line.number) == ({"name": "a"}, 2)
    wide = "name," + "," * 194 + " " * (io.DEFAULT_BUFFER_SIZE - 200)
    rows = lines(f"{wide}\r\na\r\n")
    assert [(line.number, line.fields) for line in rows] == [(2, {"name": "a"})]


@pytest.mark.once
def test_array_may_be_empty():
    assert lines(" [ ] ") == []


@pytest.mark.once
def test_half_a_pair_of_surrogates_rejects_its_row_alone():
    content = b'[{"name": "\xed\xa0\x80"}, {"name": "a"}]'
    bad, good = read_rows(
        stream(content), FileFormat(kind="json", encoding="utf-8")
    ).lines
    assert "not UTF-8" in bad.error
    assert good.fields == {"name": "a"}


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
    large = json.dumps({"name": "n", "description": "d" * 700_000})
    found = lines(f"[{','.join([entry] * 30 + [large] * 3)}]")
    assert [line.error for line in found] == [""] * 33
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
