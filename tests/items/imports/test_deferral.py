"""Files whose rows refer to items that come later in them."""

import gzip
import json
import random
from itertools import pairwise

import pytest

from items import catalogue
from items.collections import editing
from items.imports import exporting
from items.imports.formats import Unreadable
from items.models import DeferredRow, ImportRun, Item, ItemChange, ItemTag, Tag
from tests.factories import TESTER, make_item
from tests.items.imports.factories import (
    begin,
    counts,
    load,
    preview,
    preview_rows,
    proceed,
    rejects,
)

pytestmark = pytest.mark.django_db

COUNTRY = {"properties": {"next": {"type": "string", "x-reference": "country"}}}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch) -> None:
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 4)


# Each is linked to another one of another batch, in a circle.
RING = [
    {
        "id": f"r{n}", "name": "R", "replaced_by": "r10" if n == 3 else None,
        "links": [{"relation": "exactMatch", "target": f"r{(n + 5) % 11}"}],
    }
    for n in range(11)
]  # fmt: skip


def ndjson(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def states() -> dict:
    return {item.pk: item.state() for item in Item.objects.for_reading()}


def make_related(number: int) -> None:
    """Items that refer to others before and behind them in the order of the ids."""
    editing.create_collection({"key": "country", "name": "C", "schema": COUNTRY})
    for n in reversed(range(number)):
        make_item(
            id=f"i{n:02}",
            tags=["dark red", "région"],
            parent=f"i{n + 1:02}" if n % 4 and n + 1 < number else None,
            replaced_by=f"i{number - 1:02}" if n < 2 else None,
        )
    for n in range(number):  # in circles, over all batches
        link = {"relation": "exactMatch", "target": f"i{(n + 5) % number:02}"}
        catalogue.update_item(f"i{n:02}", {"links": [link]}, actor=TESTER)
    make_item(collection="country", code="Z Z", id="z")
    make_item(collection="country", code="A", attributes={"next": "Z Z"})


@pytest.mark.parametrize("name", ["csv", "ndjson", "xlsx"])
def test_export_is_imported_whole_into_an_empty_catalogue(name, tmp_path):
    make_related(11)
    content = b"".join(exporting.export(name, Item.objects.for_reading()))
    before = states()
    for model in (ItemTag, Item, ItemChange, Tag):
        model.objects.all().delete()

    run = load(content, tmp_path)

    assert counts(run) == (13, 0, 0, 0)
    assert states() == before
    assert not DeferredRow.objects.exists()
    for item in Item.objects.all():
        assert item.version == ItemChange.objects.filter(item_id=item.pk).count()


def test_item_that_refers_to_a_later_one_is_created_whole(tmp_path):
    rows = "".join(f"c{n},C,c{n + 1}\n" for n in range(10)) + "c10,C,\n"
    assert counts(load(f"id,name,parent\n{rows}", tmp_path)) == (11, 0, 0, 0)
    assert not Item.objects.exclude(version=1).exists()
    assert ItemChange.objects.count() == 11


@pytest.mark.once
def test_interrupted_import_goes_on_with_the_rows_that_wait(tmp_path):
    chain = [{"id": f"c{n}", "name": "C", "parent": f"c{n + 1}"} for n in range(10)]
    content = ndjson([*chain, {"id": "c10", "name": "C"}, *RING])
    run, slices = begin(), 0
    while run.state != ImportRun.State.DONE:
        run = ImportRun.objects.get(pk=run.pk)
        run = proceed(run, content, tmp_path, seconds=0)
        slices += 1
    assert slices == 26
    assert counts(run) == (22, 0, 0, 0)
    assert Item.objects.get(pk="c0").parent_id == "c1"
    for row in RING:
        item = catalogue.get_item(row["id"])
        assert (item.links, item.replaced_by_id) == (row["links"], row["replaced_by"])


@pytest.mark.parametrize("is_json", [False, True])
def test_row_without_what_it_refers_to_is_rejected_with_all_that_refer_to_it(
    is_json, tmp_path
):
    rows = [
        ("top", "nix"), ("child", "top"), ("one", None), ("grandchild", "child"),
        ("two", "one"), ("before", "grandchild"), ("three", "last"), ("last", None),
    ]  # fmt: skip
    content = "id,name,parent\n" + "".join(f"{a},N,{b or ''}\n" for a, b in rows)
    if is_json:
        members = {"name": "N", "reject_row": "\0"}
        content = ndjson([{"id": a, "parent": b} | members for a, b in rows])
    run = load(content, tmp_path)
    assert counts(run) == (4, 0, 0, 4)
    assert states().keys() == {"one", "two", "three", "last"}
    written = (tmp_path / "rejects.csv").read_text()
    for pk in ("top", "child", "grandchild", "before"):
        assert pk in written
    assert "There is no item “nix”" in written
    seen = preview(content)
    assert (seen.created, seen.unchanged, seen.rejected) == (0, 4, 4)


def test_preview_finds_what_a_row_of_another_batch_refers_to(tmp_path):
    make_item(id="old", name="Old")
    content = "id,name,parent\nold,Old,d\nb,B,old\nc,C,nix\na,A,c\nd,D,\ne,E,b\n"
    for duplicates in ("reject", "last"):
        seen = preview(content, duplicates=duplicates)
        assert (seen.created, seen.updated, seen.rejected) == (3, 1, 2)
        shown = preview_rows(content, duplicates=duplicates)
        lost = [row for row in shown if row.kind == "rejected"]
        assert [row.line for row in lost] == [4, 5]
        assert lost[0].reason == "parent: There is no item “nix”."
        assert lost[0].text == "c, C, nix"
    assert counts(load(content, tmp_path)) == (3, 1, 0, 2)
    assert {row["id"] for row in rejects(tmp_path)} == {"a", "c"}


def test_last_row_of_an_item_counts_also_if_an_earlier_one_waits(tmp_path):
    rows = "a,First,late\nb,B,\nc,C,\nd,D,\na,Last,\ne,E,\nf,F,\ng,G,\nlate,L,\n"
    run = load(f"id,name,replaced_by\n{rows}", tmp_path, duplicates="last")
    item = catalogue.get_item("a")
    assert (item.name, item.replaced_by_id, item.version) == ("Last", None, 1)
    assert counts(run) == (8, 1, 0, 0)


@pytest.mark.once
def test_rows_before_the_damage_of_a_file_are_applied(tmp_path):
    text = random.Random(1)
    rows = "".join(f"m{n},M,,{text.randbytes(3_000).hex()}\n" for n in range(60))
    content = f"id,name,parent,description\na,A,z,\nb,B,nix,\nc,,,\nz,Z,,\n{rows}"
    run = begin()
    with pytest.raises(Unreadable):
        proceed(run, gzip.compress(content.encode())[:-5], tmp_path)
    assert run.state == ImportRun.State.FAILED
    assert Item.objects.get(pk="a").parent_id == "z"
    assert [row["id"] for row in rejects(tmp_path)] == ["c", "b"]
    assert not DeferredRow.objects.exists()


@pytest.mark.once
def test_edit_made_while_a_circle_is_closed_is_not_overwritten(tmp_path):
    content, run = ndjson(RING), begin()
    while not DeferredRow.objects.filter(is_partial=True).exists():
        run = proceed(run, content, tmp_path, seconds=0)
    theirs = DeferredRow.objects.filter(is_partial=True).first().item_id
    catalogue.update_item(theirs, {"name": "Theirs"}, actor=TESTER)
    run = proceed(run, content, tmp_path)
    assert (run.created, run.rejected) == (11, 1)
    assert catalogue.get_item(theirs).name == "Theirs"
    (rejected,) = (tmp_path / "rejects.csv").read_text().splitlines()
    assert "Conflict" in json.loads(rejected)["reject_reason"]


def test_row_without_an_id_is_rejected_by_what_it_refers_to(tmp_path):
    content = "name,parent,replaced_by\nA,nix,\nB,,\n"
    assert preview(content).rejected == 1
    assert counts(load(content, tmp_path)) == (1, 0, 0, 1)
    assert rejects(tmp_path)[0]["name"] == "A"


def test_codes_that_refer_to_each_other_over_batches_are_rejected(tmp_path):
    """No item can be written without its attributes."""
    editing.create_collection({"key": "country", "name": "C", "schema": COUNTRY})
    rows = [
        {"collection": "country", "code": code, "name": "N", "attributes": {"next": to}}
        for code, to in (*pairwise("ABCDEF"), "FA", "ZZ")
    ]
    assert counts(load(ndjson(rows), tmp_path)) == (1, 0, 0, 6)
    written = (tmp_path / "rejects.csv").read_text()
    assert "There is no code “B” in the collection “country”" in written
    assert not DeferredRow.objects.exists()
