"""What the rows of an import would change, cell by cell, for people."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from items import fields, rules
from items.bulk.staging import Difference
from items.field_types import ItemField
from items.imports.attribute_cells import show
from items.imports.columns import MEMBERS
from items.imports.file_parsing import Line
from resilient_site.api.csv_escaping import render_csv

NEW, CHANGED, UNCHANGED = "new", "changed", "unchanged"
REJECTED, MISSING = "rejected", "missing"
TEXT_SHOWN = 500
DIFFERENCE_COLUMNS = ("line", "id", "field", "old", "new")


class PreviewRow(NamedTuple):
    """What would become of a row of the file, or of an item that no row is of.

    `kind` is new, changed, unchanged, rejected or missing.
    """

    kind: str
    line: int  # of the file; 0 for what is missing from it
    id: str  # empty if the import itself generates it, or if it is not known
    name: str  # empty of a rejected row
    # Of new and changed ones, and of missing ones that are retired: field, or
    # attributes.NAME, labels.LANGUAGE; its text before (empty of new ones); and after.
    cells: Sequence[tuple[str, str, str]] = ()
    reason: str = ""  # why it is rejected
    text: str = ""  # the row as it stands in the file, if it is rejected


type OnRow = Callable[[PreviewRow], None]


def cells_of(difference: Difference) -> list[tuple[str, str, str]]:
    """Return field, text before and text after of what differs, in their order."""
    cells: list[tuple[str, str, str]] = []
    for field in fields.STATE_FIELDS:
        if field.name not in difference.after:
            continue
        before = difference.before
        old = {} if before is None else _texts(field, before[field.name])
        new = _texts(field, difference.after[field.name])
        cells += [
            (name, old.get(name, ""), new.get(name, ""))
            for name in old | new
            if old.get(name, "") != new.get(name, "")
        ]
    return cells


def _texts(field: ItemField, value: Any) -> dict[str, str]:
    """Return the texts of a value, those of its members by their columns."""
    if field.name not in MEMBERS:
        return {field.name: field.to_text(value)}
    return {
        f"{field.name}.{name}": one if field.name == "labels" else show(None, one)
        for name, one in value.items()
    }


def row_of(difference: Difference, line: int) -> PreviewRow:
    kind = NEW if difference.before is None else CHANGED
    cells = cells_of(difference)
    return PreviewRow(kind, line, difference.id, difference.name, cells)


def rejected_row(line: Line, reason: str) -> PreviewRow:
    item_id = str(line.fields.get("id") or "")[: rules.ID_MAX]
    return PreviewRow(
        REJECTED,
        line.number,
        _shown(item_id),
        "",
        [],
        _shown(reason),
        _shown(line.text[:TEXT_SHOWN]),
    )


def _shown(text: str) -> str:
    # No database stores null characters, and no editor shows them.
    return text.replace("\0", "\\0")


def difference_writer(write: Callable[[bytes], object]) -> OnRow:
    """Return a function that writes rows as CSV: line, id, field, old, new.

    Of a rejected row it has the reason, of a missing item that is deleted its id.
    """
    write(render_csv([DIFFERENCE_COLUMNS]))

    def write_row(row: PreviewRow) -> None:
        cells = row.cells
        if row.kind == REJECTED:
            cells = [("reject_reason", "", row.reason)]
        elif row.kind == MISSING and not cells:
            cells = [("id", row.id, "")]
        if cells:
            write(render_csv([row.line or "", row.id, *cell] for cell in cells))

    return write_row


def to_json(row: PreviewRow) -> str:
    return orjson.dumps([*row]).decode()


def from_json(text: str) -> PreviewRow:
    row = PreviewRow(*orjson.loads(text))
    return row._replace(cells=[(name, old, new) for name, old, new in row.cells])
