"""Files as spreadsheets and other systems write them, and what an import makes of them.

The page, the command and the job are each given all of them.
"""

import gzip
import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import xlsxwriter


class Case(NamedTuple):
    content: bytes
    # Name and description by id.
    items: Mapping[str, tuple[str, str]] = {}
    rejected: int = 0
    chosen: Mapping[str, Any] = {}
    found: str = ""  # in the description of the format
    error: str = ""


def workbook(rows: Iterable[Iterable[Any]], **sheets: Iterable[Iterable[Any]]) -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"in_memory": True}) as book:
        for name, content in {"First": rows, **sheets}.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(content):
                sheet.write_row(number, 0, row)
    return file.getvalue()


def altered_workbook(old: bytes, new: bytes) -> bytes:
    """Return a workbook of the table whose sheet has `new` in place of `old`."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(workbook(TABLE))) as book,
        zipfile.ZipFile(file, "w") as zipped,
    ):
        for name in book.namelist():
            content = book.read(name)
            if name.endswith("sheet1.xml"):
                assert old in content
                content = content.replace(old, new)
            zipped.writestr(name, content)
    return file.getvalue()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name in names:
            zipped.writestr(name, "<workbook/>")
    return file.getvalue()


UMLAUTS = {"a.1": ("Weißwurst", "süß & herb"), "a.2": ("Café crème", "5 €")}
TABLE = [("id", "name", "description"), *((k, *v) for k, v in UMLAUTS.items())]


def text(separator: str = ";", end: str = "\r\n", table: Any = TABLE) -> str:
    return "".join(separator.join(row) + end for row in table)


ONE = {"b.1": ("One", "x")}
WORKBOOK_STUB = archive("[Content_Types].xml", "xl/workbook.xml")
MAPPING = {"Key": "id", "Label": "name", "Notes": "description"}

CASES = {
    "cp1252": Case(text().encode("cp1252"), UMLAUTS, found="CSV in Windows-1252"),
    "cp1252 after 100 kB": Case(
        b"id;name;description\r\n"
        + b"b.1;One;x\r\n"
        + b";;\r\n" * 30_000
        + text().partition("\r\n")[2].encode("cp1252"),
        ONE | UMLAUTS,
        found="Windows-1252",
    ),
    "chosen encoding": Case(
        "id,name\n1,Łódź\n".encode("cp1250"),
        {"1": ("Łódź", "")},
        chosen={"encoding": "cp1250"},
        found="Windows-1250",
    ),
    "UTF-16": Case(text("\t").encode("utf-16"), UMLAUTS, found="UTF-16"),
    "UTF-16 without a mark": Case(text("\t").encode("utf-16-be"), UMLAUTS),
    "UTF-16, gzip": Case(gzip.compress(text("\t").encode("utf-16")), UMLAUTS),
    "UTF-8 with a mark": Case(text().encode("utf-8-sig"), UMLAUTS, found="UTF-8"),
    "sep=": Case(b"sep=|\r\n" + text("|").encode(), UMLAUTS),
    "pipe": Case(text("|").encode(), UMLAUTS),
    "CR": Case(text(end="\r").encode(), UMLAUTS),
    "padding": Case(
        b",,,,,\r\n\r\n,id,name,description,,\r\n,b.1,One,x,,\r\n,,,,,\r\n"
        b" , ,\r\n\r\n,b.2,No note,,,,,,\r\n,,,,,\r\n",
        {**ONE, "b.2": ("No note", "")},
    ),
    "cell without a column": Case(b"id,name,\nb.3,Two,x\n", {}, rejected=1),
    "short row": Case(b"id,name,description,tags\nb.4,Short\n", {"b.4": ("Short", "")}),
    "same id": Case(b"id,name,description\nb.1,One,x\nb.1,Other,y\n", ONE, rejected=1),
    "same id, last": Case(
        b"id,name,description\nb.1,Other,y\nb.1,One,x\n",
        ONE,
        chosen={"duplicates": "last"},
    ),
    "JSON array": Case(
        b'[\n {\n  "id": "b.1",\n  "name": "One", "description": "x"}\n]',
        ONE,
        found="a JSON array",
    ),
    "workbook": Case(workbook(TABLE), UMLAUTS, found="workbook, sheet “First”"),
    "workbook, gzip, typed cells": Case(
        gzip.compress(workbook([["id", None, "name"], [7, None, 1.5], [], [None]])),
        {"7": ("1.5", "")},
    ),
    "workbook with a wrong size": Case(
        altered_workbook(b'<dimension ref="A1:C3"/>', b'<dimension ref="A1"/>'),
        UMLAUTS,
    ),
    "chosen sheet": Case(
        workbook([["Read the other sheet"]], Data=TABLE),
        UMLAUTS,
        chosen={"sheet": "Data"},
    ),
    "chosen columns": Case(
        b"Key,Label,Notes,Other\nb.1,One,x,z\n",
        ONE,
        chosen={"columns": MAPPING | {"Other": ""}},
    ),
    "unknown column": Case(b"Key,Label\nb.1,One\n", error="Unknown column “Key”"),
    "damaged workbook": Case(WORKBOOK_STUB, error="an Excel workbook that is damaged"),
    "workbook cut off": Case(
        altered_workbook(b"</sheetData>", b"<cut"), error="damaged: after row 3"
    ),
    "ZIP": Case(archive("items.csv"), error="This is a ZIP archive."),
    "cut off": Case(
        gzip.compress(b"name\n" + b"a\n" * 5_000, mtime=0)[:-20], error="is damaged"
    ),
}
