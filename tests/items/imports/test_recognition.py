"""What a file is, by its content."""

import gzip

import pytest

from items.imports.formats import Unreadable
from tests.items.imports.cases import WORKBOOK_STUB, archive
from tests.items.imports.factories import lines


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
        (WORKBOOK_STUB, "This is an Excel workbook that is damaged"),
        (WORKBOOK_STUB[:-9], "This is an Excel workbook that is damaged"),
    ):
        with pytest.raises(Unreadable) as caught:
            lines(content)
        assert name in caught.value.detail
