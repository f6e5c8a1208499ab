"""The catalogue in the admin, which stays fast with a million rows.

No page counts a whole table, offers a million choices or collects a million rows.
Writing goes through `items.catalogue`, as elsewhere.
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ORDER_VAR
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

import items.collections.admin
import items.tags.admin  # noqa: F401 - they register their own
from items import catalogue, rules
from items.bulk.batches import begin_batch, finish_batch, number_of_items
from items.catalogue import ItemExists
from items.fields import FIELDS, SEARCHED_FIELDS, STATE_FIELDS
from items.forms import ItemForm
from items.imports.exporting import download
from items.list_query import SEARCH_MAX, WORDS_MAX, popular_tags
from items.models import ChangeBatch, ImportRun, Item, ItemChange
from items.search import by_relevance, can_be_ranked
from resilient_site.accounts.actor import Actor
from resilient_site.admin import (
    MAX_NAMED_OBJECTS,
    LargeTableAdmin,
    ReadOnlyAdmin,
    count_across,
)
from resilient_site.errors import SiteError
from resilient_site.resilience.transactions import atomic_with_retries

# Of a workbook that a browser waits for.
MAX_WORKBOOK_ITEMS = 100_000
# Of a query with ids, which servers accept in the first line of a request.
ADDRESS_MAX = 3_000


class TagFilter(admin.SimpleListFilter):
    title = "tag"
    parameter_name = "tag"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, f"{name} ({count:,})") for name, count in popular_tags()]

    def queryset(self, request: Any, queryset: Any) -> Any:
        return queryset.tagged([self.value()]) if self.value() else queryset


class AdminItemForm(ItemForm):
    """Item form that reports a taken id or a concurrent edit as a form error.

    The catalogue checks both again when it writes.
    """

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.is_edit():
            if Item.objects.filter(pk=cleaned.get("id") or "").exists():
                self.add_error("id", ItemExists.detail)
        elif cleaned.get("version") not in (None, self.instance.revision):
            self.add_error(
                None,
                "Someone changed this item after you opened it, so yours was not "
                "saved. Open it again, and repeat your change.",
            )
        return cleaned


class PurgingAdmin(LargeTableAdmin):
    """Admin with an action that removes the contents of the selected items for good."""

    # The field with the id of an item.
    item_id = "pk"

    @admin.action(
        description="Purge: remove the contents of these items for good",
        permissions=["purge"],
    )
    def purge(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        if not super().can_delete(request, queryset):
            return None
        number = count_across(self, request, queryset)
        if number is None:
            return None
        ids = queryset.order_by().values_list(self.item_id, flat=True).distinct()
        if request.POST.get("post"):
            purged = catalogue.purge_items(ids, actor=Actor.from_request(request))
            self.message_user(request, f"Items purged: {purged:,}.", messages.SUCCESS)
            return None
        context = self.admin_site.each_context(request) | {
            "title": "Are you sure?",
            "opts": self.opts,
            "media": self.media,
            "number": number,
            "queryset": queryset[:1] if number else queryset,
            "ids": ids[:MAX_NAMED_OBJECTS],
            "total": ids.count(),
            "not_purged": catalogue.NOT_PURGED,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return render(request, "admin/items/purge_confirmation.html", context)

    def has_purge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("items.purge_item")


@admin.register(Item)
class ItemAdmin(PurgingAdmin):
    form = AdminItemForm
    list_display = ("sorted_name", "id", "tag_list", "version", "updated_at")
    list_filter = (TagFilter,)
    ordering = ("sort_key", "id")
    sortable_by = ("sorted_name", "id", "updated_at")
    search_fields = ("name",)  # shows the box; get_search_results searches
    search_help_text = "A whole id or code, or words in " + " and ".join(
        field.name for field in SEARCHED_FIELDS
    )
    actions = ("change_many", "export_csv", "export_xlsx", "export_ndjson", "purge")
    change_list_template = "admin/items/item/change_list.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Item]:
        return Item.objects.for_reading()

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        text = " ".join(search_term[:SEARCH_MAX].split()[:WORDS_MAX])
        found = queryset.search(text)
        if text and ORDER_VAR not in request.GET and can_be_ranked(found, text):
            found = by_relevance(found, text)
            found = found.order_by("rank", "sort_key", "id")  # type: ignore[misc]
        return found, False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        declared = STATE_FIELDS if obj else FIELDS
        return [*(field.name for field in declared), "version"]

    def get_form(self, request: HttpRequest, *args: Any, **options: Any) -> Any:
        # The form declares its fields; none is made from the model.
        return super().get_form(request, *args, **options | {"fields": ()})

    @admin.display(description="name", ordering="sort_key")
    def sorted_name(self, item: Item) -> str:
        return item.name

    @admin.display(description="tags")
    def tag_list(self, item: Item) -> str:
        return rules.join_tags(item.tag_names())

    def save_model(self, request: Any, obj: Item, form: Any, change: bool) -> None:
        data, actor = form.data_to_write(), Actor.from_request(request)
        if change:
            saved = catalogue.update_item(
                obj.pk, data, actor=actor, precondition=form.precondition
            )
        else:
            saved = catalogue.create_item(data, actor=actor)
        obj.__dict__.update(saved.__dict__)

    def save_related(self, *args: Any) -> None:
        """Do nothing: the tags are written with the item."""

    def delete_model(self, request: HttpRequest, obj: Item) -> None:
        catalogue.delete_item(obj.pk, actor=Actor.from_request(request))

    def can_delete(self, request: HttpRequest, selected: QuerySet[Any]) -> bool:
        if super().can_delete(request, selected):
            return True
        number = str(selected.count())
        self._offer_job(request, "Delete them by a job", "delete_items", number=number)
        return False

    def _offer_job(
        self, request: HttpRequest, text: str, task: str, **params: str
    ) -> None:
        """Link to the form of a task on all that the search and the tag select."""
        if request.POST.get("select_across") != "1":
            return
        search, tag = request.GET.get("q", ""), request.GET.get("tag", "")
        query = urlencode({"search": search, "tag": tag} | params)
        url = f"{reverse('compute:new', args=[task])}?{query}"
        link = format_html('<a href="{}">{}</a>', url, text)
        self.message_user(request, link, messages.INFO)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Item]) -> None:
        ids = queryset.values_list("pk", flat=True)
        _delete_together([*ids], Actor.from_request(request))

    def log_addition(self, *args: Any) -> None:  # type: ignore[override]
        """Do nothing: the change log records it."""

    log_change = log_deletions = log_addition  # type: ignore[assignment]

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        changes = reverse("admin:items_itemchange_changelist")
        return redirect(f"{changes}?{urlencode({'q': object_id})}")

    @admin.action(description="Change the selected items…", permissions=["change"])
    def change_many(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Open the form of the task that changes them, with the selection filled in."""
        selected = {"number": str(queryset.count())}
        if request.POST.get("select_across") == "1":
            search, tag = request.GET.get("q", ""), request.GET.get("tag", "")
            chosen = {"search": search, "tag": tag}
            selected["filter"] = urlencode({n: v for n, v in chosen.items() if v})
        else:
            ids = request.POST.getlist(ACTION_CHECKBOX_NAME)
            selected["ids"] = "\n".join(ids)
        query = urlencode(selected)
        if len(query) > ADDRESS_MAX:
            text = "Select fewer items, or all of the list, to change them by a job."
            self.message_user(request, text, messages.WARNING)
            return None
        return redirect(f"{reverse('compute:new', args=['change_items'])}?{query}")

    @admin.action(description="Export selected items as CSV")
    def export_csv(self, request: HttpRequest, queryset: Any) -> HttpResponseBase:
        return download("csv", queryset)

    @admin.action(description="Export selected items as an Excel workbook")
    def export_xlsx(
        self, request: HttpRequest, queryset: Any
    ) -> HttpResponseBase | None:
        # Unlike the others, it is sent when it is complete.
        if self.has_few(request, queryset, MAX_WORKBOOK_ITEMS):
            return download("xlsx", queryset)
        self._offer_job(request, "Export them by a job", "export_items", format="xlsx")
        return None

    @admin.action(description="Export selected items as NDJSON")
    def export_ndjson(self, request: HttpRequest, queryset: Any) -> HttpResponseBase:
        return download("ndjson", queryset)


@atomic_with_retries
def _delete_together(item_ids: list[str], actor: Actor) -> None:
    kind, title = ChangeBatch.Kind.BULK, f"Delete {number_of_items(len(item_ids))}"
    batch = begin_batch(kind, title, actor=actor)
    catalogue.delete_items(item_ids, actor=actor, batch_id=batch.pk)
    finish_batch(batch.pk)


@admin.register(ItemChange)
class ItemChangeAdmin(PurgingAdmin, ReadOnlyAdmin):
    """The change log, with deleted items; any change can be undone from here."""

    list_display = ("at", "item_id", "name", "version", "action", "actor_name")
    list_filter = ("action",)
    fields = (
        "item_id", "version", "action", "at", "actor_name", "request_id",
        "client_request_id",
        "before", "after",
    )  # fmt: skip
    ordering = ("-id",)
    sortable_by = ()
    search_fields = ("item_id__exact",)
    search_help_text = "The whole id of an item"
    actions = ("undo", "purge")
    item_id = "item_id"

    @admin.action(description="Undo selected changes", permissions=["undo"])
    def undo(self, request: HttpRequest, queryset: QuerySet[ItemChange]) -> None:
        if not self.has_few(request, queryset):
            return
        actor, undone = Actor.from_request(request), 0
        # The latest first, so that several of one item end at the earliest state.
        for change in queryset.order_by("-id"):
            try:
                catalogue.undo(change, actor=actor)
            except SiteError as error:
                self.message_user(request, f"{change}: {error}", messages.ERROR)
            else:
                undone += 1
        self.message_user(request, f"Changes undone: {undone}.", messages.SUCCESS)

    def has_undo_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perms(
            ["items.add_item", "items.change_item", "items.delete_item"]
        )


@admin.register(ImportRun)
class ImportRunAdmin(ReadOnlyAdmin):
    list_display = (
        "source", "state", "started_at", "created", "updated", "unchanged", "rejected",
    )  # fmt: skip
    fields = (*list_display, "line", "actor", "finished_at")
    ordering = ("-started_at", "id")
