"""CSV whose cells no spreadsheet takes for formulas (OWASP, CSV Injection).

What would begin one gets an apostrophe in front, which `plain` takes away again: an
export that is imported changes nothing.
"""

import csv
import io
from collections.abc import Iterable

BEGIN_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def as_csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(_inert, row) for row in rows)
    # Broken Unicode is shown as what it is: it may be why a row was refused.
    return text.getvalue().encode("utf-8", "backslashreplace")


def plain(cell: str) -> str:
    """Return what was written as `cell`."""
    return cell[1:] if cell.startswith("'") and _would_be_formula(cell) else cell


def _inert(value: object) -> object:
    is_risk = isinstance(value, str) and _would_be_formula(value)
    return f"'{value}" if is_risk else value


def _would_be_formula(text: str) -> bool:
    return text.lstrip("'").startswith(BEGIN_FORMULAS)
