"""Forms of the pages of imports."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib.auth.models import AnonymousUser, User
from django.forms.boundfield import BoundField

from items.imports import importing
from items.imports.formats import (
    DELIMITERS,
    DUPLICATES,
    ENCODINGS,
    FileFormat,
)
from items.imports.mapping import ColumnTargets
from items.models import Collection, ImportRun

AS_THE_ROWS_SAY = ("", "As the rows say")
LEFT_OUT = "-"
# What happens to items that the file does not have: one choice for mode and missing.
MISSING = {
    "keep": "Add and change items. Those that the file does not have stay as they are.",
    "retire": "Make the collection equal to this file. What is missing is retired.",
    "delete": "Make the collection equal to this file. What is missing is deleted.",
}


def collection_choices() -> list[tuple[str, str]]:
    rows = Collection.objects.order_by("name", "key").values_list("key", "name")
    return [AS_THE_ROWS_SAY, *((key, f"{name} ({key})") for key, name in rows)]


class UploadForm(forms.Form):
    file = forms.FileField(
        label="File",
        help_text="CSV, Excel (.xlsx), a JSON array or NDJSON; also compressed.",
        widget=forms.ClearableFileInput(
            {"accept": ".csv,.tsv,.txt,.xlsx,.json,.ndjson,.jsonl,.gz"}
        ),
    )
    collection = forms.ChoiceField(
        label="Collection",
        help_text="Of rows that name none; else these are in General. Its attributes "
        "can be columns.",
        choices=collection_choices,
        required=False,
    )
    collection.is_chosen = True  # type: ignore[attr-defined]


class ImportOptionsForm(forms.Form):
    """How an uploaded file is read: what was recognized, to be chosen otherwise."""

    def __init__(
        self, run: ImportRun, user: User | AnonymousUser, data: Any = None
    ) -> None:
        super().__init__(data)
        self._format = form = importing.format_of(run)
        self._add("collection", "Collection", collection_choices(), form.collection)
        if form.kind == "xlsx":
            sheets = [(sheet, sheet) for sheet in form.sheets]
            self._add("sheet", "Sheet", sheets, form.sheet)
        else:
            encodings = list(ENCODINGS.items())
            self._add("encoding", "Encoding", encodings, form.encoding)
        if form.kind == "csv":
            found = DELIMITERS.get((run.preview or {}).get("delimiter", ""), "")
            recognized = f"Recognized: {found.lower()}" if found else "Recognized"
            delimiters = [("", recognized), *DELIMITERS.items()]
            self._add("delimiter", "Separator", delimiters, form.delimiter)
        self._add(
            "duplicates", "Rows with the same id", DUPLICATES.items(), form.duplicates
        )
        is_deleting = user.has_perm("items.delete_item")
        missing = [
            pair for pair in MISSING.items() if is_deleting or "delete" not in pair
        ]
        self._add("missing", "What the import does", missing, form.missing_action)
        self.fields["missing"].widget = forms.RadioSelect(choices=missing)
        self._add_columns(run)

    def _add(self, name: str, label: str, choices: Any, initial: str) -> None:
        required = not any(value == "" for value, _ in choices)
        field = forms.ChoiceField(label=label, choices=choices, required=required)
        field.is_chosen = True  # type: ignore[attr-defined]
        self.fields[name] = field
        self.initial[name] = initial

    def _add_columns(self, run: ImportRun) -> None:
        key = self._format.collection
        header = (run.preview or {}).get("columns", [])
        self._columns = {f"column-{n}": name for n, name in enumerate(header) if name}
        if self.data.get("collection", key) != key:
            self._columns = {}  # what was offered for them is of the other one
        targets = ColumnTargets(key, self._columns.values())
        choices = [(LEFT_OUT, "Leave it out"), *targets.choices()]
        for place, name in self._columns.items():
            to = self._format.columns.get(name)
            initial = targets.suggest(name) if to is None else to
            self._add(place, f"Column “{name}”", choices, initial or LEFT_OUT)

    def options(self) -> Iterator[BoundField]:
        """Yield the fields that are shown as selects."""
        yield from (
            field
            for field in self
            if field.name != "missing" and field.name not in self._columns
        )

    @property
    def has_columns(self) -> bool:
        return bool(self._columns)

    def columns(self) -> Iterator[tuple[str, BoundField]]:
        yield from ((name, self[place]) for place, name in self._columns.items())

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        if data.get("missing", "keep") != "keep" and not data.get("collection"):
            message = "Choose the collection that is made equal to the file."
            self.add_error("collection", message)
        return data

    def chosen(self) -> FileFormat:
        """Return what was chosen, to be recognized anew."""
        data = self.cleaned_data
        columns = {
            name: "" if data[place] == LEFT_OUT else data[place]
            for place, name in self._columns.items()
        }
        # Another sheet has other columns; another encoding may spell them otherwise,
        # and another separator divides them.
        if any(
            data.get(name, "") != getattr(self._format, name)
            for name in ("sheet", "delimiter")
        ):
            columns = {}
        if data.get("encoding", "") != self._format.encoding:
            columns = {name: to for name, to in columns.items() if name.isascii()}
        return FileFormat(
            collection=data["collection"],
            mode="merge" if data["missing"] == "keep" else "make_equal",
            missing=data["missing"],
            encoding=data.get("encoding", ""),
            delimiter=data.get("delimiter", ""),
            sheet=data.get("sheet", ""),
            duplicates=data["duplicates"],
            columns=columns,
        )
