"""Forms of the pages and the admin, made from the declarations in `items.fields`."""

from typing import Any

from django import forms

from items import catalogue, fields
from items.fields import CleanedFormField, ItemData
from items.models import Item


class ItemForm(forms.ModelForm):  # type: ignore[type-arg]
    """An item as people write it, on the pages and in the admin."""

    # One form field for every declared field; a class body may add to its namespace.
    locals().update({field.name: CleanedFormField(field) for field in fields.FIELDS})
    version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    field_order = ("name",)

    class Meta:
        model = Item
        fields = ()  # all are declared

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_edit():
            del self.fields["id"]
            self.initial |= self.instance.state() | {"version": self.instance.version}
            self.fields["version"].required = True

    def is_edit(self) -> bool:
        return bool(self.instance.pk)

    def _post_clean(self) -> None:
        """Leave the instance alone: `items.catalogue` writes, not the form."""

    def data_to_write(self) -> ItemData:
        return {
            name: value
            for name, value in self.cleaned_data.items()
            if name != "version" and value is not None
        }

    @property
    def precondition(self) -> catalogue.Precondition:
        """Precondition that the item is at the version that the form was filled for."""
        return catalogue.expect_version(self.cleaned_data["version"])

    def compare(self, other: Item) -> list[dict[str, Any]]:
        """Return every field of `other`, and whether it differs from what was typed."""
        return [
            {
                "field": field,
                "value": field.read(other),
                "is_different": field.read(other) != self.cleaned_data[field.name],
            }
            for field in fields.STATE_FIELDS
        ]


class UploadForm(forms.Form):
    file = forms.FileField(
        label="File",
        help_text="CSV or NDJSON, also compressed with gzip.",
        widget=forms.ClearableFileInput({"accept": ".csv,.ndjson,.jsonl,.gz,.txt"}),
    )
