"""Formats of import files: what a person may choose, and what is recognized."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resilient_site.errors import Invalid

# What a file may be in, with the name for people. The line end is one byte in each,
# but in UTF-16.
ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "cp1252": "Windows-1252, Western European",
    "cp1250": "Windows-1250, Central European",
    "cp1251": "Windows-1251, Cyrillic",
    "cp1253": "Windows-1253, Greek",
    "cp1254": "Windows-1254, Turkish",
    "iso8859-15": "ISO 8859-15 (Latin 9)",
    "cp850": "Code page 850, DOS",
    "mac-roman": "Mac Roman",
    "cp932": "Shift JIS, Japanese",
    "gb18030": "GB 18030, Chinese",
}
DUPLICATES = {
    "reject": "Reject all but the first",
    "last": "The last one counts",
}
# What is between the cells of CSV, with its name for people.
DELIMITERS = {",": "Comma", ";": "Semicolon", "tab": "Tab", "|": "Vertical bar"}
MODES = {
    "merge": "Create and update what the file has",
    "make_equal": "Make the collection equal to the file",
}
# What happens to items of the collection that no row of the file has.
MISSING = {
    "keep": "Leave them as they are",
    "retire": "Retire them",
    "delete": "Delete them",
}
KINDS = {
    "csv": "CSV",
    "ndjson": "NDJSON",
    "json": "a JSON array",
    "xlsx": "an Excel workbook",
}


class Unreadable(Invalid):
    code = "unreadable_file"
    detail = (
        "This is not a file of items. It must be CSV with a header line, a JSON array, "
        "NDJSON with one object on each line, or an Excel workbook (.xlsx)."
    )


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """What is chosen for a file, completed by `recognize` from its content.

    Raises Invalid if one choice needs another.
    """

    # Of rows that name none, and of what is missing from the file.
    collection: str = ""
    mode: str = "merge"
    missing: str = ""  # empty: as the mode says
    encoding: str = ""
    delimiter: str = ""  # of CSV, see DELIMITERS
    sheet: str = ""  # of a workbook
    # Column of the file to field, or to a member of one such as `attributes.size`; to
    # nothing: the column is left out.
    columns: Mapping[str, str] = field(default_factory=dict)
    duplicates: str = "reject"
    # --- recognized
    kind: str = ""
    sheets: Sequence[str] = ()
    # Written out as lines already: see `open_lines`.
    is_prepared: bool = False

    def __post_init__(self) -> None:
        if self.missing_action != "keep" and not self.collection:
            message = "Choose the collection that is made equal to the file."
            raise Invalid(errors={"collection": [message]})

    @property
    def missing_action(self) -> str:
        """What happens to items that no row has, one of MISSING."""
        return self.missing or ("retire" if self.mode == "make_equal" else "keep")

    @property
    def needs_ids(self) -> bool:
        """Whether the import keeps the ids of all rows."""
        return self.duplicates == "reject" or self.missing_action != "keep"

    @property
    def is_json(self) -> bool:
        """Whether a row is an object."""
        return self.kind in ("ndjson", "json")

    @property
    def description(self) -> str:
        """What was found in the file, for people."""
        kind = KINDS.get(self.kind, "")
        if self.kind == "xlsx":
            return f"{kind}, sheet “{self.sheet}”"
        return f"{kind} in {ENCODINGS[self.encoding]}" if self.encoding else kind
