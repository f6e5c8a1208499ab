"""Forms of the pages and the admin, made from the declarations in `items.fields`."""

from typing import Any

from django import forms

from items import catalogue, fields, integrity
from items.field_types import CleanedFormField
from items.fields import ItemData
from items.imports import importing
from items.imports.file_parsing import REJECT_COLUMNS, suggest
from items.imports.formats import DUPLICATES, ENCODINGS, FileFormat
from items.models import ImportRun, Item


class ItemForm(forms.ModelForm):  # type: ignore[type-arg]
    """An item as people write it, on the pages and in the admin."""

    # One form field for every declared field; a class body may add to its namespace.
    locals().update({field.name: CleanedFormField(field) for field in fields.FIELDS})
    version = forms.CharField(required=False, widget=forms.HiddenInput)

    field_order = ("name",)

    class Meta:
        model = Item
        fields = ()  # all are declared

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_edit():
            del self.fields["id"]
            self.initial |= self.instance.state() | {"version": self.instance.revision}
            self.fields["version"].required = True

    def is_edit(self) -> bool:
        return bool(self.instance.pk)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            before = self.instance.state() if self.is_edit() else None
            errors = integrity.errors_of(
                self.instance.pk or None, before, self.data_to_write()
            )
            for name, found in errors.items():
                if isinstance(found, dict):  # by attribute
                    found = [
                        f"{one}: {' '.join(texts)}" for one, texts in found.items()
                    ]
                self.add_error(name if name in self.fields else None, found)
        return cleaned

    def _post_clean(self) -> None:
        """Leave the instance alone: `items.catalogue` writes, not the form."""

    def data_to_write(self) -> ItemData:
        return {
            name: value
            for name, value in self.cleaned_data.items()
            if name != "version"
            and not (value is None and name in fields.ABSENT_IF_NONE)
        }

    @property
    def precondition(self) -> catalogue.Precondition:
        """Precondition that the item is as it was when the form was filled."""
        return catalogue.expect_revision(self.cleaned_data["version"])

    def compare(self, other: Item) -> list[dict[str, Any]]:
        """Return every field of `other`, and whether it differs from what was typed."""
        return [
            {
                "field": field,
                "value": field.shown(field.read(other)),
                "is_different": field.read(other) != self.cleaned_data[field.name],
            }
            for field in fields.STATE_FIELDS
        ]


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
