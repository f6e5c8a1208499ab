"""A collection made equal to a file: what is missing from it is retired or deleted."""

import csv
import json

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from items import catalogue, reading
from items.collections import editing
from items.imports import comparing, importing
from items.imports.differences import PreviewRow
from items.imports.formats import FileFormat, Unreadable
from items.imports.recognition import recognize
from items.models import ChangeBatch, ImportRun, Item, ItemChange
from resilient_site.accounts.actor import Actor
from resilient_site.errors import Invalid, NotAllowed
from tests.factories import TESTER, changes_of, make_item
from tests.items.imports.factories import begin, counts, load, proceed, rejects, stream

pytestmark = pytest.mark.django_db

CODES = "ABCDEFG"


@pytest.fixture(autouse=True)
def parts(db, monkeypatch) -> None:
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    for key in ("parts", "others"):
        editing.create_collection({"key": key, "name": key})
    for code in CODES:
        make_item(id=f"parts.{code}", name=code, collection="parts", code=code)
    make_item(id="others.A", name="A", collection="others", code="A")


def statuses() -> dict[str, str]:
    rows = Item.objects.filter(collection="parts")
    return dict(rows.values_list("code", "status"))


def preview(content: str, **chosen) -> tuple[comparing.Preview, list[PreviewRow]]:
    file, rows = stream(content), list[PreviewRow]()
    form = recognize(file, FileFormat(collection="parts", **chosen))
    return comparing.preview(file, form, on_row=rows.append), rows


def results(run: ImportRun) -> tuple[int, int, int]:
    return run.missing, run.retired, run.deleted


@pytest.mark.parametrize("named", ["id", "code"])
def test_items_that_no_row_is_of_are_retired(named, tmp_path):
    catalogue.update_item("parts.G", {"status": "retired"}, actor=TESTER)
    start = "parts." if named == "id" else ""
    content = f"{named},name\n{start}A,A\n{start}B,New\n"
    if named == "code":
        content += "H/1,Of a generated id\n"
    shown, rows = preview(content, mode="make_equal")
    assert shown.missing == 4
    missing = [row for row in rows if row.kind == "missing"]
    assert [(row.id, row.name, row.cells) for row in missing] == [
        (f"parts.{code}", code, (("status", "active", "retired"),)) for code in "CDEF"
    ]
    assert set(statuses().values()) == {"active", "retired"}

    run = load(content, tmp_path, collection="parts", mode="make_equal")
    assert counts(run) == (named == "code", 1, 1, 0)
    assert results(run) == (4, 4, 0)
    retired = {code for code, status in statuses().items() if status == "retired"}
    assert retired == {*"CDEFG"}
    assert changes_of("parts.G").count() == 2
    batch = ChangeBatch.objects.get(pk=run.batch_id)
    assert (batch.created, batch.updated) == (named == "code", 5)
    own = ItemChange.objects.filter(batch=batch.pk)
    assert own.count() == 5 + (named == "code")
    again = load(content, tmp_path, collection="parts", mode="make_equal")
    assert results(again) == (0, 0, 0)
    assert Item.objects.get(pk="others.A").status == "active"


def test_items_that_no_row_is_of_are_deleted_with_what_refers_to_them(tmp_path):
    """Whatever the order; what others refer to is left, and listed."""
    catalogue.update_item("parts.G", {"parent": "parts.B"}, actor=TESTER)
    catalogue.update_item("parts.B", {"parent": "parts.C"}, actor=TESTER)
    catalogue.update_item("parts.A", {"replaced_by": "parts.D"}, actor=TESTER)
    links = [{"relation": "exactMatch", "target": "parts.E"}]
    catalogue.update_item("others.A", {"links": links}, actor=TESTER)
    catalogue.update_item("parts.E", {"parent": "parts.F"}, actor=TESTER)
    content = "id,name\nparts.A,A\nbad,B\n"
    shown, rows = preview(content, missing="delete")
    assert shown.missing == 6
    assert [row.cells for row in rows if row.kind == "missing"] == [()] * 6
    run = load(content, tmp_path, collection="parts", missing="delete")
    assert results(run) == (6, 0, 3)
    assert statuses().keys() == {*"ADEF"}
    assert reading.find_item("others.A")
    reasons = {row["reject_row"]: row["reject_reason"] for row in rejects(tmp_path)}
    assert reasons.pop("") == "code: This field is required."
    assert reasons == {
        "parts.D": "Not deleted: the item “parts.A” refers to it (replaced_by).",
        "parts.E": "Not deleted: the item “others.A” refers to it (links).",
        "parts.F": "Not deleted: the item “parts.E” refers to it (parent).",
    }
    assert run.rejected == 4
    assert ChangeBatch.objects.get(pk=run.batch_id).deleted == 3


@pytest.mark.parametrize("missing", ["retire", "delete"])
@pytest.mark.parametrize("duplicates", ["reject", "last"])
def test_interrupted_import_goes_on_with_what_is_missing(missing, duplicates, tmp_path):
    """After each transaction, with and without the ids that another process had."""
    catalogue.update_item("parts.D", {"parent": "parts.B"}, actor=TESTER)
    content = "code,name\nA,A\nH/1,New\nH/2,New\nA,A\n"
    chosen = {"collection": "parts", "missing": missing, "duplicates": duplicates}
    run, slices = begin(**chosen), 0
    while run.state == "running":
        run = ImportRun.objects.get(pk=run.pk)
        path = str(tmp_path / "ids") if slices % 2 else ""
        run = proceed(run, content, tmp_path, seconds=0, ids_path=path)
        slices += 1
    assert slices > 4
    done = 6 if missing == "retire" else 0
    assert results(run) == (6, done, 6 - done)
    left = {code for code, status in statuses().items() if status == "active"}
    assert left == {"A", "H/1", "H/2"}
    assert ChangeBatch.objects.filter(pk=run.batch_id, finished_at=None).count() == 0
    assert ItemChange.objects.filter(batch=run.batch_id).count() == 8


def test_second_process_sweeps_no_part_again(tmp_path):
    run = begin(collection="parts", mode="make_equal")
    stale = None

    def overtake(now: ImportRun) -> None:
        nonlocal stale
        if now.sweep and stale is None:
            stale = ImportRun.objects.get(pk=run.pk)
            proceed(stale, "id,name\nparts.A,A\n", tmp_path, seconds=0)

    proceed(run, "id,name\nparts.A,A\n", tmp_path, on_batch=overtake)
    run.refresh_from_db()
    assert stale
    assert results(run) == (6, 6, 0)
    assert ItemChange.objects.filter(batch=run.batch_id).count() == 6


@pytest.mark.parametrize(
    ("content", "present"),
    [
        ("id,name,valid_from\nparts.A,A,\nparts.B,B,never\nparts.B,B,\n", "AB"),
        ("code,name,valid_from\nA,A,\nC,C,never\n", "AC"),
        ("id,name,code\nparts.A,A,A\nnew,B,B\n", "AB"),  # the code is taken
    ],
)
def test_rejected_rows_are_of_items_that_are_present(content, present, tmp_path):
    run = load(content, tmp_path, collection="parts", mode="make_equal")
    assert run.rejected == 1 or run.created + run.unchanged == 2
    left = {code for code, status in statuses().items() if status == "active"}
    assert left == {*present}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("id,name\nparts.A,A\nbad id,B\n", "Of 1 rows it is not known"),
        ('id,name\nparts.A,A\nx,"B\n', "Of 1 rows it is not known"),
        ("name,id\nA,parts.A\n,\n,,more\n", "Of 1 rows it is not known"),
        ("code,name\nA,A\n,B\n,C\n", "Of 2 rows it is not known"),
        ('[{"code": "A"}, {"name": "B"}]', "Of 1 rows it is not known"),
        ("id,name\n", "The file has no rows"),
        ("", "The file has no rows"),
        (
            "id,collection,name\nothers.A,others,A\nothers.B,others,B\n",
            "No row of the file is of the collection",
        ),
    ],
)
def test_nothing_is_retired_if_the_file_may_lack_what_it_should_have(
    content, reason, tmp_path
):
    shown, _ = preview(content, mode="make_equal")
    assert (shown.missing, shown.missing_kept[: len(reason)]) == (0, reason)
    run = load(content, tmp_path, collection="parts", mode="make_equal")
    assert run.state == "done"
    assert set(statuses().values()) == {"active"}
    assert importing.missing_kept(run) == shown.missing_kept


@pytest.mark.parametrize("missing", ["retire", "delete"])
@pytest.mark.parametrize("key", ["parts", "general"])
def test_table_without_a_column_for_id_or_code_shows_nothing_as_missing(
    key, missing, tmp_path
):
    """Its rows would all be of new items, and all others would be missing."""
    make_item(id="general-item")
    run = begin(collection=key, missing=missing)
    with pytest.raises(Unreadable, match="No column is the id or the code"):
        proceed(run, "name,status\nA,active\n", tmp_path)
    assert not Item.objects.filter(status="retired").exists()
    assert Item.objects.count() == len(CODES) + 2
    shown, _ = preview("name,status\nA,active\n", missing=missing)
    assert shown.columns == ["name", "status"]
    assert shown.problem.startswith("No column is the id or the code")


def test_nothing_is_retired_by_a_damaged_file(tmp_path):
    content = '[{"id": "parts.A", "name": "A"}, {"id": "parts.B"'
    run = begin(collection="parts", mode="make_equal")
    with pytest.raises(Unreadable):
        proceed(run, content, tmp_path)
    assert run.state == "failed"
    assert set(statuses().values()) == {"active"}


def test_what_others_create_meanwhile_is_not_missing(tmp_path):
    run = begin(collection="parts", mode="make_equal")
    make_item(id="parts.Z", collection="parts", code="Z")
    run = proceed(run, "id,name\nparts.A,A\n", tmp_path)
    assert statuses()["Z"] == "active"
    assert run.retired == 6


@pytest.mark.parametrize(
    ("chosen", "action"),
    [
        ({}, "keep"),
        ({"missing": "delete"}, "delete"),
        ({"mode": "make_equal"}, "retire"),
        ({"mode": "make_equal", "missing": "keep"}, "keep"),
    ],
)
@pytest.mark.once
def test_what_happens_to_missing_items_is_what_mode_and_choice_say(chosen, action):
    assert FileFormat(collection="parts", **chosen).missing_action == action
    if action != "keep":
        with pytest.raises(Invalid) as caught:
            FileFormat(**chosen)
        assert caught.value.errors.keys() == {"collection"}


def test_unknown_collection_and_attribute_are_named(tmp_path):
    with pytest.raises(Unreadable, match="There is no collection “nix”"):
        load("id,name\n1,A\n", tmp_path, collection="nix")
    schema = {"properties": {"size": {"type": "integer"}}}
    editing.create_collection({"key": "closed", "name": "C", "schema": schema})
    content = "id,name,attributes.colour\n1,A,red\n"
    with pytest.raises(Unreadable, match="cannot have the attribute of the column"):
        load(content, tmp_path, collection="closed")
    assert not Item.objects.filter(pk="1").exists()


def test_rows_of_general_are_found_too(tmp_path):
    for pk in ("g1", "g2"):
        make_item(id=pk)
    rows = json.dumps([{"code": "g1", "name": "New"}])
    load(rows, tmp_path, collection="general", missing="delete")
    assert set(Item.objects.filter(collection="general").values_list("pk")) == {("g1",)}


@pytest.mark.parametrize("dry_run", [True, False])
def test_command_makes_a_collection_equal(dry_run, tmp_path, capsys):
    path = tmp_path / "parts.csv"
    path.write_text("code;name\nA;New\nB;B\nH;H\nI;\n")
    before = ItemChange.objects.count()
    call_command(
        "import_items",
        str(path),
        collection="parts",
        mode="make_equal",
        delimiter=";",
        dry_run=dry_run,
    )
    output = capsys.readouterr().out
    assert "1 updated, 1 unchanged; 1 rows rejected" in output
    if not dry_run:
        assert "5 items are missing from the file: 5 retired." in output
        assert statuses()["C"] == "retired"
        return
    assert "1 items would be created" in output
    assert "5 items are missing from the file, and would be retired." in output
    assert ItemChange.objects.count() == before
    with open(f"{path}.differences.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [
        ["line", "id", "field", "old", "new"],
        ["2", "parts.A", "name", "A", "New"],
    ]
    assert ["5", "", "reject_reason", "", "name: Must not be empty."] in rows
    assert ["", "parts.G", "status", "active", "retired"] in rows
    assert ["4", "parts.H", "name", "", "H"] in rows


def test_command_names_what_mode_and_collection_lack(tmp_path):
    path = tmp_path / "parts.csv"
    path.write_text("code,name\nA,New\n")
    for options, message in (
        ({"mode": "make_equal"}, "collection: Choose the collection"),
        ({"collection": "nix"}, "There is no collection “nix”"),
        ({"collection": "nix", "dry_run": True}, "There is no collection “nix”"),
    ):
        with pytest.raises(CommandError, match=message):
            call_command("import_items", str(path), **options)


def test_who_may_not_delete_items_deletes_none_by_an_import(tmp_path):
    editor = User.objects.create_user("editor")
    run = begin(collection="parts", missing="delete")
    with pytest.raises(NotAllowed):
        importing.proceed(
            run,
            stream("id,name\nparts.A,A\n"),
            actor=Actor(editor, "editor"),
            rejects=lambda rejects, size: size,
        )
    assert len(statuses()) == 7
