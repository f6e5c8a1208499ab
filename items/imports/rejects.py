"""Rows that an import rejects: a file of them as they were, with the reason."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from items.imports.columns import REJECT_COLUMNS
from items.imports.file_parsing import Line
from resilient_site.api.csv_escaping import render_csv


class Reject(NamedTuple):
    line: Line
    reason: str


@dataclass(frozen=True)
class Rejects:
    """Rejected rows of a file, to be written as it has them."""

    rows: Sequence[Reject]
    columns: Sequence[str]
    separator: str
    is_json: bool

    @property
    def extension(self) -> str:
        return "ndjson" if self.is_json else "csv"

    def render(self, *, header: bool) -> bytes:
        """Return the rows with line and reason; imported, these are left out.

        What could not be split into cells or members stands in `reject_row`.
        """
        if self.is_json:
            return b"".join(map(self._render_object, self.rows))
        kept = [
            place
            for place, name in enumerate(self.columns)
            if name.lower() not in REJECT_COLUMNS
        ]
        names = [*(self.columns[place] for place in kept), *REJECT_COLUMNS]
        rows = [names] if header else []
        for line, reason in self.rows:
            cells = line.source if isinstance(line.source, list) else []
            text = "" if cells else line.text
            filled = [*cells, *[""] * len(self.columns)]
            row = [filled[place] for place in kept]
            rows.append([*row, str(line.number), reason, text])
        mark = b"\xef\xbb\xbf" if header else b""
        return mark + render_csv(rows, delimiter=self.separator)

    def _render_object(self, reject: Reject) -> bytes:
        source, (line, reason) = reject.line.source, reject
        members = source if isinstance(source, dict) else {"reject_row": line.text}
        row = members | {"reject_line": line.number, "reject_reason": reason}
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


# Writes rejected rows after the given number of bytes, and returns the new number.
# Called in the transaction of their batch: what an interrupted one wrote is cut off.
type WriteRejects = Callable[[Rejects, int], int]


def write_rejects(path: Path, rejects: Rejects, size: int) -> int:
    """Write rejected rows to a file; see WriteRejects."""
    if path.exists():
        size = min(size, path.stat().st_size)
        os.truncate(path, size)
    else:  # that of an earlier part may have been removed
        size = 0
    if rejects.rows:
        with open(path, "ab") as file:
            file.write(rejects.render(header=not size))
            size = file.tell()
    return size
