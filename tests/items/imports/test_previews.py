"""Previews: what an import would do, row by row and cell by cell."""

import pytest

from items import catalogue
from items.imports import comparing
from items.imports.differences import PreviewRow
from items.imports.formats import FileFormat
from items.imports.recognition import recognize
from items.models import ItemChange
from tests.factories import TESTER, make_item
from tests.items.imports.factories import counts, load, stream

pytestmark = pytest.mark.django_db


def preview(content: str, **chosen) -> tuple[comparing.Preview, list[PreviewRow]]:
    rows: list[PreviewRow] = []
    file = stream(content)
    form = recognize(file, FileFormat(**chosen))
    return comparing.preview(file, form, on_row=rows.append), rows


@pytest.fixture
def items(db, monkeypatch) -> None:
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 3)
    make_item(
        id="1",
        name="Old",
        attributes={"size": 8, "kind": "12"},
        labels={"de": "Alt"},
        tags=["b"],
        valid_from="2026-01-01",
    )
    make_item(id="2", name="Same", description="x", tags=[])


def test_preview_shows_each_cell_that_differs(items):
    content = (
        "id,name,attributes.size,attributes.kind,labels.de,labels.fr,tags,valid_from\n"
        "1,New,,12,Alt,Neuf,a b,\n2,Same,,,,,,\nbad id,X,,,,,,\nnew,N,5,,,,,\n"
        ",G,,,,,,\n"
    )
    result, rows = preview(content)
    assert [row.kind for row in rows] == [
        "changed", "unchanged", "rejected", "new", "new",
    ]  # fmt: skip
    changed, unchanged, rejected, new, generated = rows
    assert (changed.line, changed.id, changed.name) == (2, "1", "New")
    assert changed.cells == [
        ("name", "Old", "New"),
        ("labels.fr", "", "Neuf"),
        ("attributes.kind", '"12"', "12"),
        ("attributes.size", "8", ""),
        ("tags", "b", "a b"),
        ("valid_from", "2026-01-01", ""),
    ]
    assert (unchanged.id, unchanged.name, unchanged.cells) == ("2", "Same", ())
    assert (rejected.line, rejected.id, rejected.text) == (
        4,
        "bad id",
        "bad id, X, , , , , , ",
    )
    assert rejected.reason.startswith("id: May have")
    assert ("name", "", "N") in new.cells
    assert ("attributes.size", "", "5") in new.cells
    assert (generated.id, generated.name) == ("", "G")
    found = (result.created, result.updated, result.unchanged, result.rejected)
    assert found == (2, 1, 1, 1)
    assert ItemChange.objects.count() == 2


def test_rows_that_refer_to_later_ones_come_at_the_end(items):
    content = (
        "id,name,parent\n1,New,top\na,A,\nb,B,\nlost,L,nix\nbelow,M,lost\ntop,T,\n"
    )
    result, rows = preview(content)
    kinds = {row.id: row.kind for row in rows}
    assert kinds == {
        "1": "changed", "a": "new", "b": "new", "top": "new",
        "lost": "rejected", "below": "rejected",
    }  # fmt: skip
    assert len(rows) == 6
    cells = {row.id: row.cells for row in rows}
    assert cells["1"] == [("name", "Old", "New"), ("parent", "", "top")]
    reasons = {row.id: row.reason for row in rows}
    assert reasons["lost"] == "parent: There is no item “nix”."
    assert not reasons["1"]
    assert (result.created, result.updated, result.rejected) == (3, 1, 2)


@pytest.mark.parametrize("duplicates", ["reject", "last"])
def test_preview_of_a_row_of_an_older_version_is_a_conflict(
    items, duplicates, tmp_path
):
    catalogue.update_item("1", {"name": "Theirs"}, actor=TESTER)
    content = "id,name,version,parent\n1,Mine,1,\n1,Mine,1,new\nnew,N,,\n"
    result, rows = preview(content, duplicates=duplicates)
    assert [row.kind for row in rows] == ["rejected", "rejected", "new"]
    run = load(content, tmp_path, duplicates=duplicates)
    assert counts(run) == (result.created, result.updated, 0, result.rejected)
    waits = "id,name,version,parent\n1,Mine,1,new\na,A,,\nb,B,,\nnew,N,,\n"
    assert preview(waits)[0].rejected == 1


def test_preview_reports_its_progress(items):
    found: list[tuple[int, int]] = []
    file = stream("id,name\n" + "".join(f"n{n},N\n" for n in range(7)))
    comparing.preview(
        file,
        recognize(file),
        on_batch=lambda now: found.append((now.created, now.bytes_read)),
    )
    assert [created for created, _ in found] == [3, 6, 7]
    assert found[-1][1] == 8 + 7 * 5
