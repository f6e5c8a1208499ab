"""Files into the catalogue and out of it, whatever is in them and whenever it ends."""

import csv
import errno
import gzip
import io
import json
import os
import sqlite3
import tracemalloc
from contextlib import closing, suppress
from pathlib import Path
from unittest.mock import Mock

import openpyxl
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from items import catalogue, rules
from items.bulk import creation, staging
from items.bulk.batches import BatchEnded
from items.bulk.undo import undo_batch
from items.imports import exporting, importing
from items.imports.differences import TEXT_SHOWN
from items.imports.file_lines import LINE_MAX_BYTES
from items.imports.file_parsing import Line, Rows
from items.imports.formats import FileFormat, Unreadable
from items.imports.rejects import Reject, Rejects, write_rejects
from items.imports.seen_ids import SeenIds
from items.management.commands.import_items import Command
from items.models import ChangeBatch, ImportRun, Item, ItemChange, Tag
from resilient_site.errors import Conflict
from tests.factories import TESTER, changes_of, make_item
from tests.items.imports.cases import CASES, Case, workbook
from tests.items.imports.factories import (
    begin,
    counts,
    lines,
    load,
    preview,
    preview_rows,
    proceed,
    rejects,
    stream,
)

DONE = ImportRun.State.DONE


# --- files as other programs write them


@pytest.mark.django_db
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_command_reads_files_as_others_write_them(case: Case, tmp_path, capfd):
    path = tmp_path / "items.file"
    path.write_bytes(case.content)
    chosen = dict(case.chosen)
    columns = [f"{name}={to}" for name, to in chosen.pop("columns", {}).items()]
    if case.error:
        assert case.error in command(str(path), column=columns, **chosen)
    else:
        call_command("import_items", str(path), column=columns, **chosen)
        output = capfd.readouterr()
        assert f"{case.rejected} rows rejected" in output.out
        assert case.found in output.err
    assert imported() == dict(case.items)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["workbook", "cp1252"])
def test_command_reads_any_file_from_a_pipe(name, monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, CASES[name].content)
    os.close(writer)
    with open(reader) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        call_command("import_items", "-")
    assert imported() == dict(CASES[name].items)


def imported() -> dict[str, tuple[str, str]]:
    return {item.pk: (item.name, item.description) for item in Item.objects.all()}


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["csv-excel", "xlsx"])
def test_export_saved_by_a_spreadsheet_changes_nothing(name, tmp_path):
    """With its separator and encoding, no bounds of text, and numbers as numbers."""
    make_item(id="7", name="-Weißwurst", description='5 €;\n"=süß"', tags=["a", "b"])
    make_item(id="007", name="'=1", description="", tags=[])
    export = b"".join(exporting.export(name, Item.objects.for_reading()))
    if name == "xlsx":
        book = openpyxl.load_workbook(io.BytesIO(export))
        saved = io.BytesIO()
        book.active.append([None] * 9)
        book.save(saved)
        content = saved.getvalue()
    else:
        assert export.startswith(b"\xef\xbb\xbf")
        rows = csv.reader(io.StringIO(export.decode("utf-8-sig"), newline=""))
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=";").writerows([*row, ""] for row in rows)
        content = text.getvalue().encode("cp1252")
    assert counts(load(content, tmp_path)) == (0, 0, 2, 0)
    assert ItemChange.objects.count() == 2


# --- applying


@pytest.mark.django_db
def test_import_creates_updates_and_leaves_rows_unchanged(tmp_path):
    make_item(id="1", name="Old", description="keep", tags=["t"])
    make_item(id="2", name="Same", description="", tags=[])

    run = load("id,name,tags\n1,New,u t\n2,Same,\n3,Third,x\n,Fourth,\n", tmp_path)

    assert counts(run) == (2, 1, 1, 0)
    item = catalogue.get_item("1")
    assert (item.name, item.description, item.version) == ("New", "keep", 2)
    assert item.tag_names() == ["t", "u"]
    assert Item.objects.search("new keep").get() == item
    change = changes_of("1").first()
    assert change.before["description"] == change.after["description"] == "keep"
    assert (change.before["tags"], change.after["tags"]) == (["t"], ["t", "u"])
    assert (change.action, change.actor_name) == ("updated", "tester")
    created = ItemChange.objects.get(item_id="3")
    assert (created.before, created.after["tags"]) == (None, ["x"])
    assert not tmp_path.joinpath("rejects.csv").exists()


@pytest.mark.django_db
def test_import_removes_tags_that_a_row_lacks(tmp_path):
    make_item(id="1", name="A", tags=["a", "b"])
    for tags, found in (("b c", ["b", "c"]), ("", [])):
        load(f"id,name,tags\n1,A,{tags}\n", tmp_path)
        assert catalogue.get_item("1").tag_names() == found
    assert Tag.objects.filter(name="a").exists()


@pytest.mark.django_db
def test_later_of_two_rows_with_one_id_counts_if_chosen(tmp_path):
    text = '{"id": 1, "name": "a", "description": "d"}\n{"id": "1", "name": "b"}\n'
    run = load(text, tmp_path, duplicates="last")
    assert counts(run) == (1, 1, 0, 0)
    item = catalogue.get_item("1")
    assert (item.name, item.description, item.version) == ("b", "d", 1)


PREVIEWED = """\
id,name,version
newer,Conflict,1
old,New,
bad id,Bad,
,Generated,
old,Newer,
new,New,
same,Same,
same,Same,
"""


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("duplicates", "expected", "rejected", "name"),
    [
        ("reject", (2, 1, 1, 4), [2, 4, 6, 9], "New"),
        ("last", (2, 2, 2, 2), [2, 4], "Newer"),
    ],
)
def test_preview_is_what_the_import_does(
    tmp_path, duplicates, expected, rejected, name
):
    for pk in ("newer", "old", "same"):
        make_item(id=pk, name=pk.capitalize())
    catalogue.update_item("newer", {"name": "Of another"}, actor=TESTER)
    seen = preview(PREVIEWED, duplicates=duplicates)
    rows = preview_rows(PREVIEWED, duplicates=duplicates)
    assert Item.objects.count() == 3
    run = load(PREVIEWED, tmp_path, duplicates=duplicates)
    shown = (seen.created, seen.updated, seen.unchanged, seen.rejected)
    assert shown == counts(run) == expected
    assert [row.line for row in rows if row.kind == "rejected"] == rejected
    # In the order of the file, whatever found them.
    assert [int(row["reject_line"]) for row in rejects(tmp_path)] == rejected
    assert {(row.id, row.name) for row in rows if row.kind != "rejected"} == {
        ("old", name),
        ("", "Generated"),
        ("new", "New"),
        ("same", "Same"),
    }
    assert (seen.columns, seen.complete) == (["id", "name", "version"], True)
    assert Item.objects.get(pk="old").name == name
    assert f"{run.created} items created" in importing.describe_imported(run)


@pytest.mark.django_db
@pytest.mark.parametrize("content", ["", workbook([])], ids=["CSV", "workbook"])
def test_preview_of_an_empty_file_shows_nothing(content):
    seen = preview(content)
    assert (seen.columns, preview_rows(content), seen.problem) == ([], [], "")


@pytest.mark.django_db
def test_preview_ends_in_time_and_says_so(monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    content = "id,name\n" + "".join(
        f"{n},a\nbad id {n},{'x' * 900}\n" for n in range(9)
    )
    seen = preview(content)
    assert (seen.created, seen.rejected, seen.bytes_read) == (9, 9, len(content))
    rejected = [row for row in preview_rows(content) if row.kind == "rejected"]
    assert {len(row.text) for row in rejected} == {TEXT_SHOWN}
    monkeypatch.setattr("items.imports.comparing.PREVIEW_S", -1)
    seen = preview(content)
    assert (seen.created, seen.rejected, seen.complete) == (1, 1, False)


@pytest.mark.once
def test_rejects_of_a_repeated_batch_are_in_the_file_once(tmp_path):
    path = tmp_path / "rejects.csv"
    row = Reject(Line(2, 9, {}, "", ["1", "a"]), "wrong")
    batch = Rejects([row], ["id", "name"], ",", is_json=False)
    first = write_rejects(path, batch, 0)
    for _ in range(2):
        assert write_rejects(path, batch, first) == path.stat().st_size
    assert [row["id"] for row in rejects(tmp_path)] == ["1", "1"]


@pytest.mark.django_db
def test_version_is_rejected_where_the_last_row_counts(tmp_path):
    """The first one has made the item another version, or was a conflict itself."""
    make_item(id="1", name="a")
    text = "id,name,version\n1,b,1\n2,c,\n1,d,\n"
    run = load(text, tmp_path, duplicates="last")
    assert counts(run) == (1, 1, 0, 1)
    (reject,) = rejects(tmp_path)
    assert reject["reject_reason"].startswith("version: Leave it out")


@pytest.mark.django_db
def test_imported_id_continues_the_versions_of_a_deleted_item(tmp_path):
    make_item(id="1")
    catalogue.delete_item("1", actor=TESTER)
    load("id,name\n1,again\n", tmp_path)
    assert catalogue.get_item("1").version == 3


@pytest.mark.django_db
def test_batch_takes_a_fixed_number_of_statements(django_assert_max_num_queries):
    rows = [
        {"id": f"i{n}", "name": f"n{n}", "description": "d", "tags": ["a", "b"]}
        for n in range(500)
    ]
    with django_assert_max_num_queries(25):
        staging.apply(rows, actor=TESTER)
    assert ItemChange.objects.count() == 500


@pytest.mark.once
@pytest.mark.django_db
def test_batch_may_take_longer_than_a_statement_of_a_page():
    staging.apply([{"id": "1", "name": "n"}], actor=TESTER)
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",)


@pytest.mark.django_db
@pytest.mark.parametrize("apply", [False, True], ids=["preview", "import"])
@pytest.mark.parametrize(
    ("rows", "counted"),
    [
        (["n," + "x" * (LINE_MAX_BYTES - 100)] * 30, (0, 30)),
        (["n," + "x" * rules.DESCRIPTION_MAX] * 1_000, (1_000, 0)),
    ],
    ids=["rejected", "valid"],
)
def test_memory_of_large_rows_is_bounded(rows, counted, apply, tmp_path, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_MAX_BYTES", LINE_MAX_BYTES)
    content = gzip.compress("\n".join(["name,description", *rows]).encode(), 1)
    tracemalloc.start()
    try:
        done = load(content, tmp_path) if apply else preview(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (done.created, done.rejected) == counted
    assert peak < 18 * LINE_MAX_BYTES


@pytest.mark.django_db
def test_repeated_ids_are_rejected_across_batches_and_resumed_runs(
    tmp_path, monkeypatch
):
    """Whether in one batch, after it, in the next process, or after a bad first row."""
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    rows = ["id,name", "1,a", "1,b", "2,a", "3,", "1,c", "3,d", "2,e", "3,f", "4,g"]
    content = "\n".join(rows)

    def stop(run: ImportRun) -> None:
        if run.line in stops:
            raise KeyboardInterrupt

    for stops in (), (5,), (3, 5, 7, 9):
        run = begin()
        for _ in range(len(stops) + 1):
            try:
                proceed(run, content, tmp_path, on_batch=stop)
            except KeyboardInterrupt:
                stops = stops[1:]
            run.refresh_from_db()
        assert run.state == DONE
        assert counts(run)[3] == 5
        reasons = {
            row["reject_line"]: row["reject_reason"] for row in rejects(tmp_path)
        }
        assert reasons.pop("5").startswith("name:")
        lines = {"3": 2, "6": 2, "8": 4, "9": 7}
        already = {n: f"The id is in line {at} already." for n, at in lines.items()}
        assert {n: r.removeprefix("id: ") for n, r in reasons.items()} == already
        names = dict(Item.objects.values_list("pk", "name"))
        assert names == {"1": "a", "2": "a", "3": "d", "4": "g"}
        (tmp_path / "rejects.csv").unlink()
    assert preview(content).rejected == 5


@pytest.mark.django_db
@pytest.mark.parametrize("name", exporting.FORMATS)
def test_row_made_of_an_older_version_is_a_conflict(name, tmp_path):
    for pk in "edited", "deleted", "same", "theirs":
        make_item(id=pk, name="before", description="before")
    export = b"".join(exporting.export(name, Item.objects.for_reading()))
    catalogue.update_item("edited", {"name": "after"}, actor=TESTER)
    catalogue.delete_item("deleted", actor=TESTER)
    for text in ("other", "before"):
        catalogue.update_item("same", {"description": text}, actor=TESTER)
    mine = export.replace(b"before", b"mine") if name != "xlsx" else export

    seen = preview(export)
    assert (seen.created, seen.updated, seen.unchanged, seen.rejected) == (0, 0, 2, 2)
    run = load(export, tmp_path)
    assert counts(run) == (0, 0, 2, 2)
    reasons = (tmp_path / "rejects.csv").read_text()
    assert "Conflict: the item is at version 2, and this row is made of version 1." in (
        reasons
    )
    assert "Conflict: the item was deleted since version 1." in reasons
    assert catalogue.get_item("edited").name == "after"
    if name != "xlsx":
        assert counts(load(mine, tmp_path)) == (0, 1, 0, 3)
        assert catalogue.get_item("theirs").name == "mine"
        assert counts(load(mine, tmp_path)) == (0, 0, 1, 3)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "version",
    ["x", "-1", "1.5", "2147483648", "99999999999", "9" * 5_000, "²"],
    ids=lambda version: version[:12],
)
def test_version_that_is_none_is_rejected(version, tmp_path):
    run = load(f"id,name,version\n1,a,{version}\n2,b,2147483647\n", tmp_path)
    assert counts(run) == (1, 0, 0, 1)
    assert "version: Must be a whole number." in rejects(tmp_path)[0]["reject_reason"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("column", "value"),
    [("name", "New"), ("description", "New"), ("tags", "new"), ("tags", "")],
)
def test_each_column_alone_changes_its_field_alone(column, value, tmp_path):
    make_item(id="1", name="Old", description="old", tags=["old"])
    before = catalogue.get_item("1").state()
    content = f"id,{column}\n1,{value}\n2,{value}\n"
    assert preview(content).updated == 1
    run = load(content, tmp_path)
    assert counts(run)[:3] == (column == "name", 1, 0)
    changed = {**before, column: value.split() if column == "tags" else value}
    item = catalogue.get_item("1")
    assert (item.state(), item.version) == (changed, 2)
    assert Item.objects.search(" ".join([item.name, item.description])).get() == item
    if column != "name":
        assert "a new one needs a name" in rejects(tmp_path)[0]["reject_reason"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("content", "mended"),
    [
        (
            'id;name;tags\nbad id;"Smith; ""John""";"red, blue"\n'
            'bad id 2;"Line one\nline two";t\n1;Good;t\n2;"open;t\n',
            [("bad id 2", "i2"), ("Line one\nline two", "Line one"), ("bad id", "i1")],
        ),
        (
            b'{"id": "bad id", "name": "a\\u0000", "tags": ["t"]}\n[7]\n'
            b'{"id": 1, "name": "Good", "description": "x"}\n',
            [("bad id", "i1"), ("\\u0000", "")],
        ),
        (
            workbook([["id", "name"], ["bad id", "a"], ["1", "Good"]]),
            [("bad id", "i1")],
        ),
    ],
    ids=["CSV", "NDJSON", "workbook"],
)
def test_rejected_rows_can_be_mended_and_imported(content, mended, tmp_path):
    """They are as they were, with the reason; what is not mended is rejected again."""
    path = tmp_path / "rejects.csv"
    run = load(content, tmp_path)
    assert run.created == 1
    text = path.read_bytes().decode()
    for wrong, right in mended:
        assert wrong in text
        text = text.replace(wrong, right)
    path.unlink()
    again = load(text, tmp_path)
    good = sum("bad id" in wrong for wrong, _ in mended)
    assert counts(again) == (good, 0, 0, run.rejected - good)
    assert catalogue.get_item("i1").name in ('Smith; "John"', "a")
    if again.rejected:  # the same once more: nothing is added to the rows
        left = path.read_bytes().decode()
        path.unlink()
        assert counts(load(left, tmp_path))[3] == again.rejected
        assert len(path.read_bytes().splitlines()) == len(left.splitlines())


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_rejected_rows_keep_columns_of_any_name(kind, tmp_path):
    names = {"Line": "name", "Reason": "description", "row": "tags"}
    row = {"id": "bad id", "Line": "a", "Reason": "b", "row": "c"}
    text = ",".join(row) + "\n" + ",".join(row.values()) + "\n"
    if kind == "ndjson":
        text = json.dumps(row)
    assert load(text, tmp_path, columns=names).rejected == 1
    path = tmp_path / "rejects.csv"
    mended = path.read_text(encoding="utf-8-sig").replace("bad id", "good")
    path.unlink()
    assert counts(load(mended, tmp_path, columns=names)) == (1, 0, 0, 0)
    item = catalogue.get_item("good")
    assert (item.name, item.description, item.tag_names()) == ("a", "b", ["c"])


@pytest.mark.django_db
@pytest.mark.parametrize("bad", [(0,), (2,), (0, 1), (4, 5), (5,), range(6)], ids=str)
def test_rejected_rows_are_kept_in_whichever_batch(bad, tmp_path, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    rows = [f"{n},{'' if n in bad else 'a'}" for n in range(6)]
    run = load("\n".join(["id,name", *rows]), tmp_path)
    assert counts(run) == (6 - len(bad), 0, 0, len(bad))
    assert [row["id"] for row in rejects(tmp_path)] == [str(n) for n in bad]


# --- breaking off and going on


@pytest.mark.django_db
def test_interrupted_run_resumes_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 10)
    rows = [f"{n},name {n}" if n % 7 else f"bad id {n},x" for n in range(50)]
    content = gzip.compress("\n".join(["id,name", *rows]).encode())

    class Stop(Exception):
        pass

    def stop(run: ImportRun) -> None:
        if run.line > 25:
            raise Stop

    run = begin()
    with pytest.raises(Stop):
        proceed(run, content, tmp_path, on_batch=stop)
    run.refresh_from_db()
    assert (run.state, run.line) == ("running", 31)
    # What a batch wrote to the rejects before it was lost is not there twice.
    with open(tmp_path / "rejects.csv", "a") as file:
        file.write("half a line")

    run = proceed(run, content, tmp_path)

    assert run.state == DONE
    assert counts(run) == (42, 0, 0, 8)
    assert Item.objects.count() == 42
    rejected = [row["reject_line"] for row in rejects(tmp_path)]
    assert rejected == [str(n + 2) for n in range(0, 50, 7)]


@pytest.mark.django_db
@pytest.mark.parametrize(("length", "state"), [(None, "done"), (-6, "failed")])
def test_import_and_its_batch_end_together(tmp_path, monkeypatch, length, state):
    class PowerCut(BaseException):
        pass

    def fail(batch_id) -> None:
        raise PowerCut

    run = begin()
    file = gzip.compress(b"id,name\na,A\n")[:length]
    with monkeypatch.context() as patched:
        patched.setattr(importing, "finish_batch", fail)
        with pytest.raises(PowerCut):
            proceed(run, file, tmp_path)
    run.refresh_from_db()
    assert run.state == "running"
    with suppress(Unreadable):
        proceed(run, file, tmp_path)
    run.refresh_from_db()
    assert run.state == state
    assert not ChangeBatch.objects.filter(finished_at=None).exists()


@pytest.mark.django_db
def test_changes_of_an_interrupted_import_are_one_batch(tmp_path, monkeypatch):
    """However often it is resumed; an import that changes nothing is none."""
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    make_item(id="i-1", name="old")
    content = b"id,name\n" + b"".join(b"i-%d,new\n" % n for n in range(5))

    def stop(run: ImportRun) -> None:
        raise KeyboardInterrupt

    run = begin()
    with pytest.raises(KeyboardInterrupt):
        proceed(run, content, tmp_path, on_batch=stop)
    proceed(ImportRun.objects.get(pk=run.pk), content, tmp_path)
    batch = ChangeBatch.objects.get()
    assert (batch.kind, batch.created, batch.updated) == ("import", 4, 1)
    assert batch.finished_at
    changes = ItemChange.objects.filter(batch=batch.pk)
    assert changes.count() == 5
    assert ItemChange.objects.exclude(batch=batch.pk).count() == 1
    proceed(begin(), content, tmp_path)
    assert ChangeBatch.objects.get() == batch


@pytest.mark.once
def test_ids_of_another_process_are_read_again_in_batches(monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_MAX_BYTES", 100)
    found = iter(lines("id,name\n" + "".join(f"{n},a\n" for n in range(100, 200))))
    with closing(SeenIds()) as real:
        ids = Mock(wraps=real)
        importing._recollect(ids, Rows(found), FileFormat(), 101)
    assert 1 < ids.record.call_count < 10


@pytest.mark.once
def test_full_disk_is_reported_from_the_first_id_on(monkeypatch, tmp_path):
    connect = sqlite3.connect

    def connect_to_full_disk(*args, **options):
        db = connect(*args, **options)
        db.execute("PRAGMA max_page_count = 1")
        return db

    monkeypatch.setattr(sqlite3, "connect", connect_to_full_disk)
    with pytest.raises(OSError, match="full") as caught:
        SeenIds(str(tmp_path / "ids"))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.django_db
@pytest.mark.parametrize("taken_up_after", [0, 1, 2, 3])
def test_second_process_applies_no_batch_again(taken_up_after, tmp_path, monkeypatch):
    """Wherever the first one is when the second takes the run up for one batch."""
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    content = "id,name\n" + "".join(f"{n},a\n" for n in range(5)) + "bad id,b\n"
    run, batches = begin(), 0

    def overtake(now: ImportRun) -> None:
        nonlocal batches
        batches += 1
        if batches == taken_up_after:
            second = ImportRun.objects.get(pk=run.pk)
            proceed(second, content, tmp_path, seconds=0)

    stale = ImportRun.objects.get(pk=run.pk)
    if taken_up_after:
        with pytest.raises(Conflict):
            proceed(run, content, tmp_path, on_batch=overtake)
    else:
        proceed(run, content, tmp_path)
    with pytest.raises(Conflict):
        proceed(stale, content, tmp_path)
    run.refresh_from_db()
    if run.state != DONE:
        proceed(run, content, tmp_path)
    assert (run.state, counts(run)) == (DONE, (5, 0, 0, 1))
    assert ItemChange.objects.count() == 5
    assert len(rejects(tmp_path)) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(("rows", "size"), [(1_200, 1), (200, 8_000)])
def test_batches_on_sqlite_are_short_for_other_writers(rows, size, tmp_path):
    text = "id,name,description\n" + f"bad id,a,{'x' * size}\n" * rows
    on_batch = Mock()
    proceed(begin(), text, tmp_path, on_batch=on_batch)
    expected = {"sqlite": 1 + max(rows // 500, rows * size // 2**19), "postgresql": 1}
    assert on_batch.call_count == expected[connection.vendor]


@pytest.mark.django_db
def test_failed_batch_leaves_position_and_items_unchanged(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("lost")

    monkeypatch.setattr(creation, "invalidate_items", fail)
    run = begin()
    with pytest.raises(RuntimeError):
        proceed(run, "name\na\n", tmp_path)
    run.refresh_from_db()
    assert (run.offset, run.created, run.state) == (0, 0, "running")
    assert not Item.objects.exists()


# --- the command


def command(*args: str, **options: object) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("import_items", *args, **options)
    return str(caught.value)


@pytest.mark.django_db
def test_command_says_what_it_imported_before_it_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "items.csv"
    path.write_text("id,name\n1,a\n2,b\n3,c\nbad id,d\n")
    rejected = tmp_path / "items.csv.rejects.csv"
    rejected.symlink_to(tmp_path / "missing" / "folder")
    imported = "The first 3 lines were imported"

    assert f"rejects.csv'. {imported}; --resume" in command(str(path))
    assert Item.objects.count() == 2
    rejected.unlink()
    call_command("import_items", str(path), "--resume")
    assert Item.objects.count() == 3
    assert rejected.exists()

    Path("standard-input.rejects.csv").symlink_to(tmp_path / "missing" / "folder")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream(path.read_bytes())))
    assert command("-").endswith(f"{imported}.")
    assert "cannot be resumed" in command("-", "--resume")


@pytest.mark.django_db
def test_command_resumes_only_what_was_interrupted(tmp_path, monkeypatch):
    """Not a file that was changed meanwhile, nor one that is imported or damaged."""
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 2)
    path = tmp_path / "items.csv"
    path.write_text("id,name\n1,a\n2,b\n3,c\n")
    with monkeypatch.context() as patched:
        patched.setattr(Command, "_show", Mock(side_effect=KeyboardInterrupt))
        assert command(str(path)).startswith("Stopped")
    content = path.read_text()
    path.write_text(content.replace("1,a", "9,a") + "4,d\n")
    assert "no interrupted import of this file" in command(str(path), "--resume")
    assert Item.objects.count() == 2
    call_command("import_items", str(path))
    assert "no interrupted import of this file" in command(str(path), "--resume")
    path.write_bytes(gzip.compress(content.encode())[:-5])
    assert "damaged" in command(str(path))
    assert "no interrupted import of this file" in command(str(path), "--resume")


@pytest.mark.django_db
@pytest.mark.parametrize("name", [".", "missing.csv", "other.csv"])
def test_command_reports_a_file_that_it_cannot_import(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("colour\nred\n")
    assert command(name).endswith(". Nothing was imported.")


@pytest.mark.django_db
def test_export_is_ordered_by_id_in_chunks(monkeypatch):
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 3)
    for name in "hgfedcba":
        make_item(id=name, name="same")
    exported = b"".join(exporting.export("ndjson", Item.objects.for_reading()))
    names = [json.loads(line)["id"] for line in exported.splitlines()]
    assert names == sorted("abcdefgh")


@pytest.mark.django_db
def test_interrupted_import_that_was_undone_does_not_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr("items.imports.batch.BATCH_ROWS", 1)
    run = proceed(begin(), "id,name\na,A\nb,B\n", tmp_path, seconds=0)
    assert run.state == "running"
    undo_batch(run.batch_id, actor=TESTER)
    with pytest.raises(BatchEnded):
        proceed(run, "id,name\na,A\nb,B\n", tmp_path)
    assert run.state == "failed"
    assert "Import the file again" in importing.describe_imported(run)
    assert not Item.objects.exists()
    again = load("id,name\na,A\nb,B\n", tmp_path)
    assert counts(again) == (2, 0, 0, 0)
