"""Columns of single attributes and labels, typed by the schema of the collection."""

import io
import json
from datetime import datetime
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from items import rules
from items.collections import editing
from items.imports.attribute_cells import read, show
from items.imports.columns import find_field, parse_columns, suggest
from items.models import Item
from resilient_site.errors import Invalid
from tests.factories import make_item
from tests.items.imports.cases import workbook
from tests.items.imports.factories import counts, load, preview, rejects
from tests.items.test_round_trip import SCHEMA, attributes

pytestmark = pytest.mark.django_db

PARTS = {
    "properties": {
        "length": {"type": "integer"},
        "price": {"type": "number"},
        "isOld": {"type": "boolean"},
        "metal": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "sizes": {"type": "array", "items": {"type": "integer"}},
        "words": {"type": "array", "items": {"type": "string"}},
    }
}


@pytest.fixture
def parts(db) -> None:
    editing.create_collection({"key": "parts", "name": "Parts", "schema": PARTS})


def attributes_of(pk: str) -> dict:
    return Item.objects.get(pk=pk).attributes


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("length", " 12 ", 12),
        ("length", "12.0", 12),
        ("price", "1.5", 1.5),
        ("price", "1E3", 1000),
        ("isOld", "TRUE", True),
        ("isOld", "no", False),
        ("isOld", "0", False),
        ("isOld", "WAHR", True),
        ("metal", " 007 ", "007"),
        ("metal", "TRUE", "TRUE"),
        ("metal", '""', ""),
        ("metal", '"quoted" and more', '"quoted" and more'),
        ("day", "31.12.2026", "2026-12-31"),
        ("day", "2026-12-31T00:00:00", "2026-12-31"),
        ("day", "2026/1/5", "2026-01-05"),
        ("day", "12/31/2026", "12/31/2026"),  # or the twelfth of some month
        ("at", "2026-12-31", "2026-12-31T00:00:00Z"),
        ("at", "31.12.2026 14:30", "2026-12-31T14:30:00Z"),
        ("at", "2026-12-31T14:30:00+01:00", "2026-12-31T14:30:00+01:00"),
        ("sizes", "1; 2;;3", [1, 2, 3]),
        ("sizes", "[1, 2]", [1, 2]),
        ("words", "a, b; c", ["a, b", "c"]),
        ("words", "[]", []),
        ("words", "", None),
        (None, "12", 12),
        (None, '"12"', "12"),
        (None, "007", "007"),
        (None, "FALSE", False),
        (None, "[1, 2]", [1, 2]),
        (None, "brass", "brass"),
        (None, "null", None),
    ],
)
def test_cell_is_read_as_its_attribute_is_declared(name, text, value):
    found = rules.clean_attribute(read(PARTS["properties"].get(name), text))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("length", "1.5"), ("length", "1.2E+12"), ("length", "x"), ("price", "1,5"),
        ("isOld", "maybe"), ("sizes", "1; x"), ("words", "[a"),
    ],
)  # fmt: skip
def test_cell_that_does_not_fit_is_an_error(name, text):
    with pytest.raises(ValueError, match="Must be"):
        read(PARTS["properties"][name], text)


@pytest.mark.once
def test_decimal_comma_is_read_where_it_separates_no_cells():
    assert read({"type": "number"}, "-1,5", decimal_comma=True) == -1.5
    with pytest.raises(ValueError, match="a number"):
        read({"type": "number"}, "1.000,5", decimal_comma=True)


@pytest.mark.once
@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries(attributes))
def test_what_is_shown_of_an_attribute_is_read_as_it_was(values):
    """Whether the schema declares it or not."""
    for name, value in values.items():
        for declared in (SCHEMA["properties"][name], None):
            cleaned = rules.clean_attribute(value)
            found = rules.clean_attribute(read(declared, show(declared, cleaned)))
            assert (found, type(found)) == (cleaned, type(cleaned))


def test_column_of_an_attribute_changes_it_alone(parts, tmp_path):
    values = {"length": 1, "metal": "brass"}
    labels = {"de": "Schraube", "fr": "Vis"}
    make_item(id="bolt", collection="parts", code="1", attributes=values, labels=labels)
    content = (
        "id;ATTRIBUTES.Length;attributes.isold;labels.DE;labels.pt-br\n"
        "bolt;2;TRUE;;Parafuso\nbolt.2;x;;;\n"
    )
    seen = preview(content)
    assert counts(load(content, tmp_path)) == (0, 1, 0, 1)
    assert (seen.updated, seen.rejected) == (1, 1)
    item = Item.objects.get(pk="bolt")
    assert item.attributes == {"isOld": True, "length": 2, "metal": "brass"}
    assert item.labels == {"fr": "Vis", "pt-BR": "Parafuso"}
    # An empty cell clears; a short row leaves alone.
    load("id,attributes.length,attributes.metal\nbolt,\n", tmp_path)
    assert attributes_of("bolt") == {"isOld": True, "metal": "brass"}


def test_reject_names_the_attribute(parts, tmp_path):
    content = (
        "code,name,attributes.length,attributes.price\n1,A,x,y\n2,B,1,1\n3,C,2,y\n"
    )
    run = load(content, tmp_path, collection="parts")
    assert counts(run) == (1, 0, 0, 2)
    reason = rejects(tmp_path)[0]["reject_reason"]
    assert "attributes.length: Must be a whole number" in reason
    assert "attributes.price: Must be a number" in reason
    assert Item.objects.get().pk == "parts.2"


def test_cells_are_typed_by_the_collection_of_their_row(parts, tmp_path):
    """That of its column, else the one chosen; else the item's own, else general."""
    make_item(id="own", collection="parts", code="own")
    content = (
        "id,name,collection,attributes.metal\n"
        "1,A,general,12\na,B,parts,12\nown,,,\nnew,C,,12\n"
    ).replace("own,,,", "own,N,,12")
    load(content, tmp_path)
    assert attributes_of("1") == {"metal": 12}
    assert attributes_of("own") == {"metal": "12"}
    assert attributes_of("new") == {"metal": 12}
    (reject,) = rejects(tmp_path)
    assert reject["reject_reason"].startswith("code: This field is required.")
    load("code,name,attributes.metal\nx,X,12\n", tmp_path, collection="parts")
    assert attributes_of("parts.x") == {"metal": "12"}


@pytest.mark.parametrize(
    "row",
    [
        '{"id": "1", "attributes": {"a": 1, "b": 2}, "attributes.b": "3",'
        ' "labels.DE": null}',
        '"id","attributes","attributes.b","labels.DE"\n'
        '1,"{""a"": 1, ""b"": 2}","""3""",',
    ],
    ids=["NDJSON", "CSV"],
)
def test_single_members_come_over_the_whole_object(row, tmp_path):
    labels = {"de": "Alt", "fr": "Vieux"}
    make_item(id="1", attributes={"old": True}, labels=labels)
    load(row, tmp_path)
    item = Item.objects.get()
    assert item.attributes == {"a": 1, "b": "3"}
    assert item.labels == {"fr": "Vieux"}


def test_workbook_has_typed_cells(parts, tmp_path):
    rows = [
        ["code", "name", "attributes.length", "attributes.isOld", "attributes.price"],
        [1, "A", 12, True, 1.5],
        [2, "B", "", False, 2],
    ]
    load(workbook(rows), tmp_path, collection="parts")
    assert attributes_of("parts.1") == {"isOld": True, "length": 12, "price": 1.5}
    assert attributes_of("parts.2") == {"isOld": False, "price": 2}


@pytest.mark.parametrize("duplicates", ["reject", "last"])
def test_rows_of_one_item_are_one_by_member(duplicates, tmp_path, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    content = (
        "id,name,attributes.a,replaced_by\n1,A,1,late\n1,A,2\n1,B,3\n2,B,,\nlate,L,5,\n"
    )
    run = load(content, tmp_path, duplicates=duplicates)
    expected = {"reject": ((3, 0, 0, 2), 1), "last": ((3, 2, 0, 0), 3)}
    assert (counts(run), attributes_of("1")["a"]) == expected[duplicates]
    assert Item.objects.get(pk="1").replaced_by_id == "late"


@pytest.mark.once
@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,attributes.a b", "Unknown column “attributes.a b”"),
        ("id,labels.no language", "Unknown column “labels.no language”"),
        ("id,labels.de,labels.DE", "There are two columns “labels.de”"),
        ("id,tags.a", "Unknown column “tags.a”"),
        ("attributes.a,labels.de", "There is no column “name”, nor “id” or “code”"),
    ],
)
def test_column_that_names_no_member_is_unknown(header, message):
    assert message in preview(f"{header}\n1,a,b\n").problem


def test_two_columns_of_one_attribute_are_rejected(parts, tmp_path):
    load(
        "id,attributes.length,attributes.Length\n1,1,2\n", tmp_path, collection="parts"
    )
    assert (
        "attributes.length: There are two columns of this attribute."
        in (rejects(tmp_path)[0]["reject_reason"])
    )


@pytest.mark.once
def test_columns_are_assigned_and_suggested_by_attribute():
    columns = parse_columns(["Länge=attributes.length", "Deutsch=labels.DE", "Rest="])
    assert columns == {"Länge": "attributes.length", "Deutsch": "labels.de", "Rest": ""}
    with pytest.raises(Invalid, match="assigns no column"):
        parse_columns(["x=attributes.a b"])
    titles = {"length_mm": "Length (mm)"}
    assert suggest("length (MM)", titles) == "attributes.length_mm"
    assert suggest("Notes", titles) == "description"
    assert find_field("Attributes.Size") == "attributes.Size"


@pytest.mark.once
def test_delimiter_is_recognized_unless_it_is_chosen(tmp_path):
    content = 'id|name\n1|"a, b; c"\n'
    assert preview(content).delimiter == "|"
    chosen = "a;id,name\nx;1,A\n"
    columns = {"a": "name", "id,name": "description"}
    run = load(chosen, tmp_path, delimiter=";", columns=columns)
    assert run.created == 1
    assert Item.objects.get().description == "1,A"


class MergeProperty(TestCase):
    def setUp(self) -> None:
        schema = {"properties": {n: SCHEMA["properties"][n] for n in attributes}}
        for key in ("flat", "whole"):
            editing.create_collection({"key": key, "name": key, "schema": schema})

    @settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None)
    @given(
        st.fixed_dictionaries({}, optional=attributes),
        st.fixed_dictionaries({}, optional=attributes),
        st.sets(st.sampled_from(sorted(attributes))),
    )
    def test_columns_merge_as_objects_do(self, before, after, cleared):
        """Values of `after` are set, those of `cleared` removed, the others kept."""
        Item.objects.all().delete()
        for key in ("flat", "whole"):
            make_item(id=key, collection=key, code="1", attributes=before)
        changes = after | dict.fromkeys(cleared)
        merged = {n: v for n, v in (before | changes).items() if v is not None}
        declared = SCHEMA["properties"]
        row = ["1", *(show(declared[n], changes[n]) for n in changes)]
        sheet = workbook([["code", *(f"attributes.{n}" for n in changes)], row])
        run = load(sheet, Path("/nonexistent"), collection="flat")
        assert run.rejected == 0
        whole = {"code": "1", "attributes": merged}
        load(json.dumps(whole), Path("/nonexistent"), collection="whole")
        assert (
            attributes_of("flat")
            == attributes_of("whole")
            == dict(sorted(merged.items()))
        )


@pytest.mark.parametrize("kind", ["workbook", "CSV"])
def test_days_are_read_as_spreadsheets_write_them(kind, parts, tmp_path):
    header = ["code", "name", "valid_from", "attributes.day", "attributes.at"]
    if kind == "workbook":
        book, day = openpyxl.Workbook(), datetime(2026, 12, 31)  # noqa: DTZ001
        book.active.append(header)
        book.active.append(["1", "A", day.date(), day, day.replace(hour=14)])
        file = io.BytesIO()
        book.save(file)
        content = file.getvalue()
    else:
        row = ["1", "A", "31.12.2026", "31.12.2026", "31.12.2026 14:00"]
        content = "\r\n".join(map(";".join, [header, row])).encode("cp1252")
    assert load(content, tmp_path, collection="parts").rejected == 0
    item = Item.objects.get()
    assert str(item.valid_from) == "2026-12-31"
    assert item.attributes == {"at": "2026-12-31T14:00:00Z", "day": "2026-12-31"}
