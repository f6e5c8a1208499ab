"""Collections in the admin, which writes through `items.collections.editing`."""

import json
from typing import Any

import orjson
from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from items import catalogue, integrity, rules
from items.collections import editing
from items.collections.schema import in_order
from items.models import Collection
from resilient_site.admin import LargeTableAdmin
from resilient_site.errors import SiteError

FIELDS = ("key", "name", "description", "schema", "source", "licence")
BROKEN_SHOWN = 20


class Decoder(json.JSONDecoder):
    """Takes what the API takes, and so no half of a pair of surrogates."""

    def decode(self, s: str) -> Any:  # type: ignore[override]
        return orjson.loads(s)


class SchemaField(forms.JSONField):
    widget = forms.Textarea({"rows": 20, "cols": 80, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return json.dumps(in_order(value), indent=2, ensure_ascii=False)
        return super().prepare_value(value)


class CollectionForm(forms.ModelForm):  # type: ignore[type-arg]
    """A collection, which is written as it is found to be valid.

    Whether items conform to a schema is known when it is introduced.
    """

    schema = SchemaField(
        decoder=Decoder,
        required=False,
        help_text="JSON Schema of the attributes of its items.",
    )
    revision = forms.CharField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Collection
        fields = FIELDS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_edit = bool(self.instance.pk)
        if self.is_edit:
            self.initial["revision"] = self.instance.revision

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.written = self._write(cleaned)
            except SiteError as error:
                self._add_errors(error)
        return cleaned

    def _write(self, cleaned: dict[str, Any]) -> Collection:
        raw = {name: cleaned[name] for name in FIELDS if name in cleaned}
        raw["schema"] = raw["schema"] or {}
        data = editing.clean(raw, partial=True)
        if not self.is_edit:
            return editing.create_collection(data)
        return editing.change_collection(
            self.instance.pk,
            data,
            precondition=catalogue.expect_revision(cleaned["revision"]),
        )

    def _add_errors(self, error: SiteError) -> None:
        for name, found in (error.errors or {}).items():
            if isinstance(found, dict):
                found = [
                    f"{place}: {' '.join(texts)}" for place, texts in found.items()
                ]
            self.add_error(name, found)
        if not error.errors:
            self.add_error(None, error.detail)
        for item in error.members.get("items", ())[:BROKEN_SHOWN]:
            text = integrity.describe(item["errors"])
            self.add_error("schema", f"{item['id']}: {text}")

    def _post_clean(self) -> None:
        """Leave the instance alone: it has been written."""


@admin.register(Collection)
class CollectionAdmin(LargeTableAdmin):
    form = CollectionForm
    list_display = ("key", "name", "version", "updated_at", "items_link")
    search_fields = ("key", "name", "description")
    ordering = ("key",)
    # Each one has to be empty.
    actions = None

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        coming = ["next_schema"] if obj and obj.next_schema else []
        return [*FIELDS, *coming, "revision"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["key", "next_schema"] if obj else []

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Do without a transaction around all of it: a schema takes several."""
        view = self._changeform_view  # type: ignore[attr-defined]
        response: HttpResponse = view(request, object_id, form_url, extra_context)
        return response

    def save_model(
        self, request: Any, obj: Collection, form: Any, change: bool
    ) -> None:
        obj.__dict__.update(form.written.__dict__)

    def delete_model(self, request: HttpRequest, obj: Collection) -> None:
        editing.delete_collection(obj.pk)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_kept = obj is not None and (obj.pk == rules.GENERAL or obj.items.exists())
        return not is_kept and super().has_delete_permission(request, obj)

    @admin.display(description="items")
    def items_link(self, collection: Collection) -> SafeString:
        items = reverse("admin:items_item_changelist")
        url = f"{items}?{urlencode({'collection__exact': collection.pk})}"
        return format_html('<a href="{}">Show items</a>', url)
