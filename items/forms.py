from collections.abc import Callable
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from items import rules
from items.models import Item
from items.rules import ItemData


class RuleField(forms.CharField):
    """Text that `items.rules` cleans."""

    def __init__(self, cleaner: Callable[[object], Any], **options: Any) -> None:
        super().__init__(strip=False, **options)
        self.cleaner = cleaner

    def clean(self, value: Any) -> Any:
        value = super().clean(value)
        if value == "" and not self.required and self.cleaner is rules.clean_id:
            return ""
        try:
            return self.cleaner(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def prepare_value(self, value: Any) -> Any:
        return " ".join(value) if isinstance(value, list) else value


class ItemForm(forms.ModelForm):  # type: ignore[type-arg]
    """An item as people write it, on the pages and in the admin."""

    id = RuleField(
        rules.clean_id,
        required=False,
        label="Id",
        help_text="How other systems name it. Leave empty to have one made.",
        widget=forms.TextInput(attrs={"maxlength": rules.ID_MAX, "size": 40}),
    )
    name = RuleField(
        rules.clean_name,
        widget=forms.TextInput(attrs={"maxlength": rules.NAME_MAX, "size": 60}),
    )
    description = RuleField(
        rules.clean_description, required=False, widget=forms.Textarea({"rows": 8})
    )
    tags = RuleField(
        rules.clean_tags,
        required=False,
        help_text="Words with spaces between, such as: country europe",
        widget=forms.TextInput(attrs={"size": 60}),
    )
    version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Item
        fields = ("id", "name", "description")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_edit():
            del self.fields["id"]
            self.initial["tags"] = self.instance.tag_names()
            self.initial["version"] = self.instance.version
            self.fields["version"].required = True

    def is_edit(self) -> bool:
        return bool(self.instance.pk)

    def _post_clean(self) -> None:
        """Leave the instance alone: `items.catalogue` writes, not the form."""

    def data_to_write(self) -> ItemData:
        data = ItemData(
            name=self.cleaned_data["name"],
            description=self.cleaned_data["description"],
            tags=self.cleaned_data["tags"],
        )
        if self.cleaned_data.get("id"):
            data["id"] = self.cleaned_data["id"]
        return data

    @property
    def versions(self) -> set[int]:
        """The version that was shown to the person who edited it."""
        return {self.cleaned_data["version"]}


class UploadForm(forms.Form):
    file = forms.FileField(
        label="File",
        help_text="CSV or NDJSON, also compressed with gzip.",
        widget=forms.ClearableFileInput({"accept": ".csv,.ndjson,.jsonl,.gz,.txt"}),
    )
