"""Files into the catalogue and out of it, whatever is in them and whenever it ends."""

import csv
import errno
import gzip
import io
import json
import os
import re
import sqlite3
import tracemalloc
import zipfile
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import openpyxl
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from items import catalogue, fields, rules
from items.imports import exporting, importing, staging
from items.imports.file_parsing import read_rows
from items.imports.formats import LINE_MAX_BYTES, FileFormat, Unreadable, recognize
from items.imports.seen_ids import SeenIds
from items.management.commands.import_items import Command
from items.models import ImportRun, Item, ItemChange, Tag
from resilient_site.errors import Conflict, Invalid
from tests.factories import TESTER, changes_of, make_item
from tests.items.import_cases import CASES, WORKBOOK_STUB, Case, archive, workbook

DONE = ImportRun.State.DONE


def stream(content: str | bytes) -> io.BufferedReader:
    raw = content.encode() if isinstance(content, str) else content
    return io.BufferedReader(io.BytesIO(raw))


def lines(content: str | bytes, **options):
    file = stream(content)
    form = recognize(file, **options)
    return list(read_rows(file, form, **options).lines)


def preview(content: str | bytes, **chosen) -> importing.Preview:
    file = stream(content)
    return importing.preview(file, recognize(file, FileFormat(**chosen)))


def begin(**chosen) -> ImportRun:
    form = asdict(FileFormat(**chosen))
    return importing.begin(source="test", path="-", actor=TESTER, format=form)


def proceed(run: ImportRun, content: str | bytes, folder: Path, **options) -> ImportRun:
    rejects = partial(importing.write_rejects, folder / "rejects.csv")
    return importing.proceed(
        run, stream(content), actor=TESTER, rejects=rejects, **options
    )


def load(content: str | bytes, folder: Path, **chosen) -> ImportRun:
    return proceed(begin(**chosen), content, folder)


def rejects(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rejects.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def counts(run: ImportRun) -> tuple[int, int, int, int]:
    return run.created, run.updated, run.unchanged, run.rejected


# --- reading


@pytest.mark.once
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_separator_is_recognized(separator, end, mark):
    text = mark + end.join(
        [separator.join(row) for row in (["ID ", "Name"], ["1", '"a ""b"""'])]
    )
    (line,) = lines(text)
    assert (line.fields, line.error) == ({"id": "1", "name": 'a "b"'}, "")


@pytest.mark.once
def test_ndjson_and_gzip_are_recognized_by_content():
    text = '{"name": "a"}\n\n{"name": "b"}'
    for content in (text, gzip.compress(text.encode()), "\ufeff" + text):
        found = [line.fields.get("name") for line in lines(content)]
        assert found == ["a", None, "b"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("description,tags\nx,\n", "no column “name”, nor “id”"),
        ("id,name,colour\n", "Unknown column “colour”"),
        ("name,Name\n", "two columns “name”"),
        ('"na\n', "not CSV"),
        (b"\x1f\x8b\x08 broken", "damaged"),
        (gzip.compress(b"name\n" + b"a\n" * 5000, mtime=0)[:-20], "damaged"),
        ("id,na\0me\n", "binary"),
        ("[1", "JSON array is damaged after entry"),
        ("<!DOCTYPE html><p>Sign in", "HTML"),
        ("id,name\n".encode("utf-16")[:-1], "not text in UTF-16"),
        ("x" * (LINE_MAX_BYTES + 5), "not a file of items"),
        ('sep="\nid,name\n', "cannot separate"),
        ("sep= \nid,name\n", "cannot separate"),
        ("[" * 20_000 + "]" * 20_000, "JSON array is damaged after entry 0"),
        ('[{"name": "a"},]', "JSON array is damaged after entry 1"),
        ('[{"name": "a"}] 1', "JSON array is damaged after entry 1"),
        ('[{"name": "a"} {"name": "b"}]', "JSON array is damaged after entry 0"),
        ("[1" + " " * 2 * LINE_MAX_BYTES + "]", "longer than"),
        ('["' + "x" * 2 * LINE_MAX_BYTES + '"]', "longer than"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_file_without_items_is_rejected(content, reason):
    with pytest.raises(Unreadable, match=reason):
        lines(content)


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


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,a,b,c", "4 cells"),
        ("1", "no item with this id"),
        ('1,"a"b,x', "not CSV"),
        (b"1,\xff\xfe,x\n3,\xc3\xa4,\xc3\xa4\xc3\xa4", "not UTF-8"),
        (b'1,a,"x', "not CSV"),
        (b"1,a\0b,x", "null character"),
        ("a b,name,x", "id:"),
        ("1,,x", "name: Must not be empty"),
        ("1,a," + "x" * (LINE_MAX_BYTES + 5), "longer than|larger than"),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.django_db
def test_bad_row_is_rejected_with_line_and_reason(row, reason, tmp_path):
    raw = row if isinstance(row, bytes) else row.encode()
    run = load(b"id,name,description\n" + raw + b"\n2,good,x\n", tmp_path)

    assert (Item.objects.filter(pk="2").count(), run.rejected) == (1, 1)
    (reject,) = rejects(tmp_path)
    assert reject["reject_line"] == "2"
    assert re.search(reason, reject["reject_reason"])


@pytest.mark.django_db
def test_unclosed_quote_swallows_no_row(tmp_path):
    rows = ['q1,a,"x', "q2,b,y", 'q3,c,"two', 'lines"', 'q4,d,"e" f', "q5,g,h", 'q6,"']
    run = load("\n".join(["id,name,description", *rows]), tmp_path)

    assert counts(run) == (3, 0, 0, 3)
    assert set(Item.objects.values_list("pk", flat=True)) == {"q2", "q3", "q5"}
    assert catalogue.get_item("q3").description == "two\nlines"
    rejected = [(row["reject_line"], row["reject_row"]) for row in rejects(tmp_path)]
    assert rejected == [("2", 'q1,a,"x'), ("6", 'q4,d,"e" f'), ("8", 'q6,"')]


@pytest.mark.django_db
def test_huge_line_in_an_open_quote_costs_two_rows(tmp_path):
    huge = "x" * (LINE_MAX_BYTES * 2)
    run = load(f'id,name\n1,"a\n{huge}\n2,b\n', tmp_path)
    assert counts(run) == (1, 0, 0, 2)


cells = st.text('",;\n\r a8é', max_size=8)


def write_csv(rows: list[tuple[str, str]], quoting: int, end: str) -> str:
    file = io.StringIO()
    csv.writer(file, quoting=quoting, lineterminator=end).writerows(rows)
    return file.getvalue()


@pytest.mark.once
@given(
    st.builds(
        write_csv,
        st.lists(st.tuples(cells, cells), max_size=5),
        st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        st.sampled_from(["\n", "\r\n"]),
    )
    | st.text('",\na8', max_size=30)
)
@example('M8" bolt,"multi\nline"\n8","two\nlines"\n')
def test_rows_are_those_of_the_csv_module(text):
    """Up to the first row that is not CSV."""
    found = lines("id,name\n" + text)
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    try:
        for line, row in zip(found, reader, strict=True):
            is_row = any(cell.strip() for cell in row) and not any(row[2:])
            cells = dict(zip(["id", "name"], row, strict=False)) if is_row else {}
            assert (line.number, line.fields) == (reader.line_num + 1, cells)
    except csv.Error:
        assert found[-1].end == len(f"id,name\n{text}".encode())


@pytest.mark.once
@pytest.mark.timeout(30)  # minutes, if each line were read to the end of the file
def test_reopened_quotes_are_read_in_linear_time():
    """Each line alone could begin a row that goes on to the end of the file."""
    content = b"id,name\n" + b'a","b\n' * 20_000 + b"1,good\n"
    found = lines(content)
    assert len(found) == 20_001
    assert found[-1].fields == {"id": "1", "name": "good"}
    assert all(line.error for line in found[:-1])


@pytest.mark.once
def test_file_is_not_read_beyond_its_limit():
    content = gzip.compress(b"name\n" + b"\n" * 100_000)
    with pytest.raises(Unreadable, match="more than 50,000 bytes"):
        lines(content, max_bytes=50_000)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"name": "a", "colour": 1}', "Unknown: colour"),
        ('{"name": 5}', "name: Must be text"),
        ('{"id": -1, "name": "a"}', "id:"),
        ('{"name": "' + "x" * LINE_MAX_BYTES + '"}', "longer than"),
        ('{"name": "\\ud800"}', "not JSON"),
        ('{"name": 1e999}', "not JSON"),
        ('{"name": ' + "9" * 5_000 + "}", "not JSON"),
        ('{"name": NaN}', "not JSON"),
        ('{"name": ' + "[" * 500 + "]" * 500 + "}", "not JSON"),
    ],
    ids=lambda value: value[:30],
)
@pytest.mark.parametrize("form", ["{}\n{}\n{}\n", "[{},\n{} ,\n\n {}\n]"])
@pytest.mark.django_db
def test_bad_json_row_is_rejected(form, row, reason, tmp_path):
    """A line of NDJSON, or an entry of an array."""
    if form[0] == "[" and (row == "{" or len(row) > LINE_MAX_BYTES):
        pytest.skip("damages the array")
    run = load(form.format('{"name": "a"}', row, '{"name": "b"}'), tmp_path)
    assert counts(run) == (2, 0, 0, 1)
    assert reason in (tmp_path / "rejects.csv").read_text()


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
"""


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


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("duplicates", "expected", "rejected", "name"),
    [
        ("reject", (2, 1, 1, 3), [2, 4, 6], "New"),
        ("last", (2, 2, 1, 2), [2, 4], "Newer"),
    ],
)
def test_preview_is_what_the_import_does(
    tmp_path, duplicates, expected, rejected, name
):
    for pk in ("newer", "old", "same"):
        make_item(id=pk, name=pk.capitalize())
    catalogue.update_item("newer", {"name": "Of another"}, actor=TESTER)
    seen = preview(PREVIEWED, duplicates=duplicates)
    assert Item.objects.count() == 3
    run = load(PREVIEWED, tmp_path, duplicates=duplicates)
    shown = (seen.created, seen.updated, seen.unchanged, seen.rejected)
    assert shown == counts(run) == expected
    assert [line for line, _, _ in seen.rejects] == rejected
    # In the order of the file, whatever found them.
    assert [int(row["reject_line"]) for row in rejects(tmp_path)] == rejected
    assert [row[:2] for row in seen.rows] == [
        ["old", name],
        ["", "Generated"],
        ["new", "New"],
        ["same", "Same"],
    ]
    assert seen.columns == ["id", "name", "version"]
    assert Item.objects.get(pk="old").name == name
    assert f"{run.created} items created" in importing.describe_imported(run)


@pytest.mark.once
def test_rejects_of_a_repeated_batch_are_in_the_file_once(tmp_path):
    path = tmp_path / "rejects.csv"
    row = importing.Reject(importing.Line(2, 9, {}, "", ["1", "a"]), "wrong")
    batch = importing.Rejects([row], ["id", "name"], ",", is_json=False)
    first = importing.write_rejects(path, batch, 0)
    for _ in range(2):
        assert importing.write_rejects(path, batch, first) == path.stat().st_size
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
    with django_assert_max_num_queries(20):
        staging.apply(rows, actor=TESTER)
    assert ItemChange.objects.count() == 500


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
    monkeypatch.setattr(importing, "BATCH_MAX_BYTES", LINE_MAX_BYTES)
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
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
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
    ["x", "-1", "1.5", "99999999999", "9" * 5_000],
    ids=lambda version: version[:12],
)
def test_version_that_is_none_is_rejected(version, tmp_path):
    run = load(f"id,name,version\n1,a,{version}\n2,b,\n", tmp_path)
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
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
    rows = [f"{n},{'' if n in bad else 'a'}" for n in range(6)]
    run = load("\n".join(["id,name", *rows]), tmp_path)
    assert counts(run) == (6 - len(bad), 0, 0, len(bad))
    assert [row["id"] for row in rejects(tmp_path)] == [str(n) for n in bad]


# --- breaking off and going on


@pytest.mark.django_db
def test_interrupted_run_resumes_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "BATCH_ROWS", 10)
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


@pytest.mark.once
def test_ids_of_another_process_are_read_again_in_batches(monkeypatch):
    monkeypatch.setattr(importing, "BATCH_MAX_BYTES", 100)
    found = iter(lines("id,name\n" + "".join(f"{n},a\n" for n in range(100, 200))))
    with closing(SeenIds()) as real:
        ids = Mock(wraps=real)
        importing._recollect(ids, found, 101)
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
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
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

    monkeypatch.setattr(staging, "_write_log", fail)
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
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
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
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
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


# --- round trip

ids = st.one_of(
    st.integers(0, rules.INTEGER_MAX),
    st.from_regex(rules.ID_PATTERN, fullmatch=True).filter(
        lambda text: len(text) <= rules.ID_MAX
    ),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tag_lists = st.lists(st.sampled_from(["a", "b-c", "d.e", "x1", "z+"]), max_size=4)


class ExportAndImport(TestCase):
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(ids, texts, texts, tag_lists), max_size=8),
        st.sampled_from(sorted(exporting.FORMATS)),
    )
    def test_importing_an_export_changes_nothing(self, rows, name):
        """Also into an empty catalogue, where the same items come out."""
        for pk, item_name, description, tags in rows:
            try:
                data = fields.clean(
                    {"id": pk, "name": item_name, "description": description,
                     "tags": tags}
                )  # fmt: skip
                catalogue.create_item(data, actor=TESTER)
            except (Invalid, catalogue.ItemExists):
                continue

        def exported() -> bytes:
            return b"".join(exporting.export(name, Item.objects.for_reading()))

        content, number = exported(), Item.objects.count()
        folder = Path("/nonexistent")
        run = load(content, folder)
        assert counts(run) == (0, 0, number, 0)
        assert exported() == content

        state = {item.pk: item.state() for item in Item.objects.all()}
        Item.objects.all().delete()
        assert counts(load(content, folder)) == (number, 0, 0, 0)
        assert {item.pk: item.state() for item in Item.objects.all()} == state


@pytest.mark.django_db
def test_export_is_ordered_by_id_in_chunks(monkeypatch):
    monkeypatch.setattr(exporting, "CHUNK_ROWS", 3)
    for name in "hgfedcba":
        make_item(id=name, name="same")
    exported = b"".join(exporting.export("ndjson", Item.objects.for_reading()))
    names = [json.loads(line)["id"] for line in exported.splitlines()]
    assert names == sorted("abcdefgh")
