"""Columns of import files: which field each of them is, or which member of one.

`attributes.NAME` and `labels.LANGUAGE` are members of these fields. Members of objects
are named alike.
"""

from collections.abc import Iterable, Mapping, Sequence

from items import fields, rules
from items.imports.formats import FileFormat, Unreadable
from resilient_site.errors import Invalid

COLUMNS = [field.name for field in fields.FIELDS]
# What a file of rejected rows has beside these: see `rejects.Rejects`.
REJECT_COLUMNS = ("reject_line", "reject_reason", "reject_row")
KNOWN = {*COLUMNS, *fields.READ_ONLY, *REJECT_COLUMNS}
# The rules for the names of members, by field.
MEMBERS = {"attributes": rules.clean_attribute_name, "labels": rules.clean_language}
# How people and messages name these columns.
MEMBER_COLUMNS = ("attributes.NAME", "labels.LANGUAGE")
# Columns that other systems call otherwise: what the form suggests.
SYNONYMS = {
    "id": ("key", "identifier", "item"),
    "name": ("label", "title", "term", "text"),
    "description": ("notes", "note", "comment", "comments", "details", "definition"),
    "tags": ("tag", "keywords", "categories", "category"),
}
COLUMNS_MAX = 200


class UnknownColumns(Unreadable):
    """The columns have to be assigned to fields first."""

    def __init__(self, detail: str | None = None, columns: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.columns = list(columns)


class Columns:
    """Where the cells of each column go: to a field, a member of one, or nowhere."""

    def __init__(self, names: Sequence[str], fields: Sequence[str]) -> None:
        self.fields = fields  # empty: left out
        self.unnamed = {n for n, name in enumerate(names) if not name}
        self._is_plain = all(fields)

    def assign(self, cells: list[str]) -> dict[str, str]:
        """Return the cells by field; an empty row has none, a short one fewer.

        Raises ValueError if a cell that is not empty is in no column.
        """
        if not any(map(str.strip, cells)):
            return {}
        if self._is_plain and len(cells) == len(self.fields):
            return dict(zip(self.fields, cells, strict=True))
        for place in self.unnamed:
            if any(map(str.strip, cells[place : place + 1])):
                raise ValueError(f"Column {place + 1} has a cell, but no name.")
        if any(map(str.strip, cells[len(self.fields) :])):
            expected = len(self.fields)
            raise ValueError(f"Has {len(cells)} cells where the header has {expected}.")
        found = dict(zip(self.fields, cells, strict=False))
        found.pop("", None)
        return found


def assign_columns(header: Sequence[str], form: FileFormat) -> Columns:
    """Return the columns with their fields, as chosen or by their names."""
    if not header:
        return Columns((), ())  # an empty catalogue is exported as an empty file
    chosen = {name.strip(): to for name, to in form.columns.items()}
    # Without their case, unless they are columns as they are: attributes differ by it.
    chosen |= {name.lower(): to for name, to in chosen.items() if name not in header}
    lower = {name.lower() for name in header}
    if missing := [name for name in chosen if name.lower() not in lower]:
        raise UnknownColumns(f"There is no column “{missing[0][:50]}”.", header)
    fields = [chosen.get(name, chosen.get(name.lower(), name)) for name in header]
    targets = [find_field(field) if field else "" for field in fields]
    if None in targets:
        unknown = header[targets.index(None)]
        raise UnknownColumns(
            f"Unknown column “{unknown[:50]}”. Assign it to one of these, or leave it "
            f"out: {', '.join([*COLUMNS, *MEMBER_COLUMNS])}.",
            header,
        )
    found = [to for to in targets if to]
    if twice := [to for to in found if found.count(to) > 1]:
        raise UnknownColumns(f"There are two columns “{twice[0]}”.", header)
    if not {"name", "id", "code"} & {*found}:
        raise UnknownColumns("There is no column “name”, nor “id” or “code”.", header)
    return Columns(header, [to or "" for to in targets])


def find_field(name: str) -> str | None:
    """Return the field, or the member of one, that this names; None: there is none.

    A member is returned with its name as it is stored: `labels.pt-BR`.
    """
    name = name.strip()
    if (lower := name.lower()) in KNOWN:
        return lower
    field, _, member = name.partition(".")
    try:
        return f"{field.lower()}.{MEMBERS[field.lower()](member)}"
    except (KeyError, ValueError):
        return None


def parse_columns(assignments: Iterable[str]) -> dict[str, str]:
    """Return fields by column, from texts such as `Label=name`; raises Invalid."""
    columns = {}
    for text in assignments:
        name, sign, to = text.rpartition("=")
        name, to = name.strip(), to.strip()
        field = find_field(to) if to else ""
        if not sign or not name or field is None:
            raise Invalid(
                f"“{text[:100]}” assigns no column: write COLUMN=FIELD, with one of "
                f"{', '.join([*COLUMNS, *MEMBER_COLUMNS])}."
            )
        columns[name] = field
    return columns


def suggest(column: str, attributes: Mapping[str, str] | None = None) -> str:
    """Return the field that a column of this name probably has; empty: none.

    `attributes` are the titles of those of the collection, by name.
    """
    if field := find_field(column):
        return field
    name = column.strip().lower()
    for attribute, title in (attributes or {}).items():
        if name in (attribute.lower(), title.lower()):
            return f"attributes.{attribute}"
    return next((field for field, names in SYNONYMS.items() if name in names), "")
