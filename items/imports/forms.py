"""Forms of the pages of imports."""

from typing import Any

from django import forms

from items import fields
from items.imports import importing
from items.imports.columns import REJECT_COLUMNS, suggest
from items.imports.formats import DUPLICATES, ENCODINGS, FileFormat
from items.models import ImportRun


class UploadForm(forms.Form):
    file = forms.FileField(
        label="File",
        help_text="CSV, Excel (.xlsx), a JSON array or NDJSON; also compressed.",
        widget=forms.ClearableFileInput(
            {"accept": ".csv,.tsv,.txt,.xlsx,.json,.ndjson,.jsonl,.gz"}
        ),
    )


LEFT_OUT = "-"


class ImportOptionsForm(forms.Form):
    """How an uploaded file is read: what was recognized, to be chosen otherwise."""

    def __init__(self, run: ImportRun, data: Any = None) -> None:
        super().__init__(data)
        form, preview = importing.format_of(run), run.preview or {}
        if form.kind == "xlsx":
            sheets = [(sheet, sheet) for sheet in form.sheets]
            self.fields["sheet"] = forms.ChoiceField(choices=sheets, initial=form.sheet)
        else:
            self.fields["encoding"] = forms.ChoiceField(
                choices=list(ENCODINGS.items()), initial=form.encoding
            )
        self.fields["duplicates"] = forms.ChoiceField(
            label="Rows with the same id",
            choices=list(DUPLICATES.items()),
            initial=form.duplicates,
        )
        self._format = form
        self._columns = {
            f"column-{number}": name
            for number, name in enumerate(preview.get("columns", []))
            if name
        }
        targets = [
            (LEFT_OUT, "Leave it out"),
            *((f.name, f.label) for f in fields.FIELDS),
        ]
        targets += [(name, name) for name in (*fields.READ_ONLY, *REJECT_COLUMNS)]
        for key, name in self._columns.items():
            self.fields[key] = forms.ChoiceField(
                label=f"Column “{name}”",
                choices=targets,
                initial=form.columns.get(name, suggest(name)) or LEFT_OUT,
            )

    def chosen(self) -> FileFormat:
        """Return what was chosen, to be recognized anew."""
        data = self.cleaned_data
        columns = {
            name: "" if data[key] == LEFT_OUT else data[key]
            for key, name in self._columns.items()
        }
        # Another sheet has other columns; another encoding may spell them otherwise.
        if data.get("sheet", "") != self._format.sheet:
            columns = {}
        if data.get("encoding", "") != self._format.encoding:
            columns = {name: to for name, to in columns.items() if name.isascii()}
        return FileFormat(
            encoding=data.get("encoding", ""),
            sheet=data.get("sheet", ""),
            duplicates=data["duplicates"],
            columns={n: f for n, f in columns.items() if f != n.strip().lower()},
        )
