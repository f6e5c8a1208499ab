"""What a file is, by its content."""

import gzip

import pytest

from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from tests.items.imports.cases import TABLE, WORKBOOK_STUB, archive, workbook
from tests.items.imports.factories import lines, stream


@pytest.mark.once
def test_ndjson_and_gzip_are_recognized_by_content():
    text = '{"name": "a"}\n\n{"name": "b"}'
    for content in (text, gzip.compress(text.encode()), "\ufeff" + text):
        found = [line.fields.get("name") for line in lines(content)]
        assert found == ["a", None, "b"]


@pytest.mark.once
def test_other_kind_of_file_is_named():
    for content, name in (
        (b"%PDF-1.7", "This is a PDF document"),
        (b"\x89PNG\r\n\x1a\n\0\0", "This is an image (PNG)"),
        (gzip.compress(b"\xff\xd8\xff", mtime=0), "This is an image (JPEG)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "such as .xls"),
        (archive("items.csv"), "This is a ZIP archive. Unpack it"),
        (archive("items.csv")[:-9], "This is a ZIP archive that is damaged"),
        (archive("word/document.xml"), "an Office document"),
        (archive("content.xml"), "an OpenDocument file"),
        (b"id,na\0me\n", "This is a binary file. Save it as CSV"),
        (b"\n <HTML>", "This is a page of HTML"),
        ("<?xml ?>".encode("utf-16"), "This is a page of HTML or XML"),
        (WORKBOOK_STUB, "This is an Excel workbook that is damaged"),
        (WORKBOOK_STUB[:-9], "This is an Excel workbook that is damaged"),
    ):
        with pytest.raises(Unreadable) as caught:
            lines(content)
        assert name in caught.value.detail


@pytest.mark.once
@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"name\na\n", "CSV in UTF-8"),
        ("name\n1é2é\n".encode() + b"\xe9\n", "CSV in UTF-8"),
        (
            "name\né\n".encode() + b"\xe9\n\xe9\n",
            "CSV in Windows-1252, Western European",
        ),
        (
            b"name\n" + b"a" * 2**16 + b"\n\xe9\n",
            "CSV in Windows-1252, Western European",
        ),
        ("[é]".encode("utf-16"), "a JSON array in UTF-16"),
        ("\r\n {é".encode("utf-16-be"), "NDJSON in UTF-16"),
        (("name\n" + 30 * "é\n").encode("utf-16-le"), "CSV in UTF-16"),
        ("[é".encode("utf-8-sig"), "a JSON array in UTF-8"),
        (b"\xef\xbb\xbfname\n" + b"\xe9\n" * 9, "CSV in UTF-8"),
        (b"", "CSV in UTF-8"),
        (workbook(TABLE), "an Excel workbook, sheet “First”"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_kind_and_encoding_are_those_of_the_content(content, description):
    assert recognize(stream(content)).description == description


@pytest.mark.once
def test_sheet_that_the_workbook_lacks_is_named_with_those_it_has():
    content = workbook(TABLE, Data=TABLE)
    with pytest.raises(Unreadable, match="no sheet “Date”. It has: First, Data."):
        recognize(stream(content), FileFormat(sheet="Date"))
