"""Cells that a spreadsheet would run as formulas."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.api.csv_escaping import render_csv, unescape

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "''=1"]
)
def test_formula_is_escaped(text):
    (cell,) = next(csv.reader(io.StringIO(render_csv([[text]]).decode(), newline="")))
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", ["", "Germany", "'quoted'", "1-1", "a=b", "'"])
def test_other_text_is_not_escaped(text):
    assert render_csv([["x", text]]).decode() == f"x,{text}\r\n"


@given(st.text("=+-@'a ＝\t") | st.text())
def test_unescape_returns_what_was_written(text):
    written = render_csv([["x", text]]).decode("utf-8", "surrogateescape")
    _, cell = next(csv.reader(io.StringIO(written, newline="")))
    assert unescape(cell) == text.encode("utf-8", "backslashreplace").decode()
