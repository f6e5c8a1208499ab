"""Tags in the admin: another name, or one tag of two, as over REST."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from items import rules
from items.models import ItemTag, Tag
from items.tags import editing
from resilient_site.accounts.actor import Actor
from resilient_site.admin import LargeTableAdmin


class TagForm(forms.ModelForm):  # type: ignore[type-arg]
    name = forms.CharField(
        strip=False, help_text="Another name is an edit of each item that has the tag."
    )
    merge = forms.BooleanField(
        required=False,
        help_text=(
            "If there is a tag of this name: its items and those of this tag get that "
            "one, and this one is deleted."
        ),
    )

    class Meta:
        model = Tag
        fields = ("description",)

    def clean_name(self) -> str:
        try:
            return rules.clean_tag(self.cleaned_data["name"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        name = cleaned.get("name", self.instance.name)
        if name != self.instance.name:
            if Tag.objects.filter(name=name).exists() and not cleaned.get("merge"):
                self.add_error("name", editing.TagExists.detail)
            elif self.instance.pk and editing.needs_job(self.instance):
                query = urlencode({"tag": self.instance.name, "into": name})
                url = f"{reverse('compute:new', args=['replace_tag'])}?{query}"
                text = "It has too many items. <a href='{}'>Do this by a job</a>."
                self.add_error("name", format_html(text, url))
        return cleaned

    def _post_clean(self) -> None:
        """Leave the instance alone: `items.tags.editing` writes, not the form."""


@admin.register(Tag)
class TagAdmin(LargeTableAdmin):
    form = TagForm
    list_display = ("name", "description", "items_link")
    search_fields = ("name", "description")
    ordering = ("name",)
    # Deleting in bulk would collect the items of every tag.
    actions = None

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        is_renamable = obj and not self.get_readonly_fields(request, obj)
        return ["name", *(["merge"] if is_renamable else []), "description"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        may_rename = obj is None or request.user.has_perm("items.change_item")
        return [] if may_rename else ["name"]

    def save_model(self, request: Any, obj: Tag, form: Any, change: bool) -> None:
        data, actor = form.cleaned_data, Actor.from_request(request)
        name, description = data.get("name", obj.name), data["description"]
        if not change:
            saved = editing.create_tag(name, description)
        elif name != obj.name and data["merge"]:
            saved = editing.merge_tag(obj.name, name, actor=actor)
        else:
            changes = {"name": name, "description": description}
            saved = editing.change_tag(obj.name, changes, actor=actor)
        obj.__dict__.update(saved.__dict__)

    def delete_model(self, request: HttpRequest, obj: Tag) -> None:
        editing.delete_tag(obj.name)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        used = obj is not None and ItemTag.objects.filter(tag=obj).exists()
        return not used and super().has_delete_permission(request, obj)

    @admin.display(description="items")
    def items_link(self, tag: Tag) -> SafeString:
        items = reverse("admin:items_item_changelist")
        url = f"{items}?{urlencode({'tag': tag.name})}"
        return format_html('<a href="{}">Show items</a>', url)
