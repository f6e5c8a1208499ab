"""Rows of a file, whatever is in them."""

import csv
import gzip
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from items import catalogue
from items.imports.columns import UnknownColumns, parse_columns, suggest
from items.imports.file_lines import LINE_MAX_BYTES
from items.imports.file_parsing import read_rows
from items.imports.formats import FileFormat, Unreadable
from items.models import Item
from resilient_site.errors import Invalid
from tests.items.imports.cases import workbook
from tests.items.imports.factories import counts, lines, load, rejects, stream


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
        ("[]1", "JSON array is damaged after entry 0"),
        ('[{"name": "a"} {"name": "b"}]', "JSON array is damaged after entry 0"),
        ("[1" + " " * 2 * LINE_MAX_BYTES + "]", "longer than"),
        ('["' + "x" * 2 * LINE_MAX_BYTES + '"]', "longer than"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_file_without_items_is_rejected(content, reason):
    with pytest.raises(Unreadable, match=reason):
        lines(content)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,a,b,c", "4 cells"),
        ("1", "a new one needs a name"),
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

    good = Item.objects.exclude(pk="3").get()
    assert (good.pk, run.rejected) == ("2", 1)
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
@example('8,,"\n"')
@example('M8" bolt,"multi\nline"\n8","two\nlines"\n')
def test_rows_are_those_of_the_csv_module(text):
    """Up to the first row that is not CSV."""
    found = lines("id,name\n" + text)
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    try:
        for line, row in zip(found, reader, strict=True):
            full = [bool(cell.strip()) for cell in row]
            is_row = any(full) and not any(full[2:])
            cells = dict(zip(["id", "name"], row, strict=False)) if is_row else {}
            assert (line.number, line.fields) == (reader.line_num + 1, cells)
    except csv.Error:
        assert found[-1].end == len(f"id,name\n{text}".encode())


@pytest.mark.once
@pytest.mark.timeout(120)  # minutes, if each line were read to the end of the file
def test_reopened_quotes_are_read_in_linear_time():
    """Each line alone could begin a row that goes on to the end of the file."""
    content = b"id,name\n" + b'a","b\n' * 20_000 + b"1,good\n"
    found = lines(content)
    assert len(found) == 20_001
    assert found[-1].fields == {"id": "1", "name": "good"}
    assert all(line.error for line in found[:-1])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ("{}", "The object is empty"),
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


@pytest.mark.once
def test_row_is_shown_as_it_stands_in_the_file():
    assert [line.text for line in lines('id,name\n1,"a"\n2,b,c\n')] == ["1, a", "2,b,c"]
    assert [line.text for line in lines('{"id": 1}\n{]')] == ['{"id":1}', "{]"]


@pytest.mark.once
def test_row_of_two_lines_is_read_after_one_that_is_not_csv_and_far_into_a_file():
    two = '2,"two\nlines"'
    for before in ('1,"e" f', '1,"a', "\n".join(["1," + "x" * 100_000] * 3)):
        found = lines(f"id,name\n{before}\n{two}")
        assert found[-1].fields == {"id": "2", "name": "two\nlines"}


@pytest.mark.once
def test_line_may_be_as_long_as_the_limit():
    for size, error in ((LINE_MAX_BYTES, ""), (LINE_MAX_BYTES + 1, "is longer than")):
        longest, after = lines("description,id\n" + "x" * (size - 3) + ",1\n,2\n")
        assert error in longest.error
        assert bool(longest.error) == bool(error)
        assert (after.fields["id"], after.number) == ("2", 3)


@pytest.mark.once
def test_file_may_have_no_rows():
    for content in ("", "\ufeff", "\n,,\n", "sep=;\n", "id,name\n", workbook([])):
        assert lines(content) == []


@pytest.mark.once
def test_file_may_have_as_many_columns_as_the_limit():
    (line,) = lines("," * 199 + "name\n" + "," * 199 + "a")
    assert line.fields == {"name": "a"}
    with pytest.raises(Unreadable, match="more than 200 columns"):
        lines("," * 200 + "name\n")


@pytest.mark.once
def test_null_in_the_name_of_a_column_is_rejected():
    """Even where the encoding was chosen, and as a workbook writes it."""
    chosen = FileFormat(kind="csv", encoding="cp1252")
    with pytest.raises(Unreadable, match="This is a binary file."):
        read_rows(stream("name,a\0b\n"), chosen)
    with pytest.raises(Unreadable, match="This is a binary file."):
        lines(workbook([["name", "a_x0000_b"]]))


@pytest.mark.once
def test_chosen_column_that_the_file_lacks_is_named():
    chosen = FileFormat(kind="csv", encoding="utf-8", columns={"Label": "name"})
    with pytest.raises(UnknownColumns, match="There is no column “Label”.") as caught:
        read_rows(stream("id,Title\n"), chosen)
    assert caught.value.columns == ["id", "Title"]


@pytest.mark.once
def test_column_that_is_left_out_has_no_cells():
    columns = {" My\nnotes ": "", "LABEL": "name"}
    content = '"My\nnotes",Label\nx,a\nx\n'
    form = FileFormat(kind="csv", encoding="utf-8", columns=columns)
    rows = read_rows(stream(content), form).lines
    assert [(row.fields, row.error) for row in rows] == [({"name": "a"}, ""), ({}, "")]
    form = FileFormat(kind="ndjson", encoding="utf-8", columns=columns | {"x": "id"})
    (row,) = read_rows(stream('{"x": 1, "My\\nnotes": 2, "LABEL": "a"}'), form).lines
    assert row.fields == {"id": 1, "name": "a"}


@pytest.mark.once
def test_cell_of_a_column_without_a_name_rejects_its_row():
    bad, good = lines("id,,name\n1,x,a\n2, ,b\n")
    assert (bad.fields, bad.error) == ({}, "Column 2 has a cell, but no name.")
    assert good.fields == {"id": "2", "name": "b"}


@pytest.mark.once
def test_columns_are_assigned_by_text():
    assert parse_columns([" Label = name", "a=b=", "N=tags"]) == {
        "Label": "name",
        "a=b": "",
        "N": "tags",
    }
    for text in ("Label", "=name", "Label=colour"):
        with pytest.raises(Invalid, match="assigns no column"):
            parse_columns([text])


@pytest.mark.once
@pytest.mark.parametrize(
    ("column", "field"),
    [(" Title ", "name"), ("Version", "version"), ("keywords", "tags"), ("Other", "")],
)
def test_field_is_suggested_by_the_name_of_a_column(column, field):
    assert suggest(column) == field
