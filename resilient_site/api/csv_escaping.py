"""CSV whose cells no spreadsheet takes for formulas (OWASP, CSV Injection).

A cell that would start a formula gets an apostrophe in front, which `unescape` removes
again: importing an export changes nothing.
"""

import csv
import io
from collections.abc import Iterable

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def render_csv(rows: Iterable[Iterable[object]], *, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows(map(_escape, row) for row in rows)
    # Broken Unicode is written as escapes: it may be why a row was rejected.
    return text.getvalue().encode("utf-8", "backslashreplace")


def unescape(cell: str) -> str:
    """Return the value that was written as `cell`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _escape(value: object) -> object:
    is_risk = isinstance(value, str) and _is_formula(value)
    return f"'{value}" if is_risk else value


def _is_formula(text: str) -> bool:
    return text.lstrip("'").startswith(FORMULA_STARTS)
