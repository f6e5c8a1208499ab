from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property

from resilient_site.models import ApiToken

MAX_COUNTED_ROWS = 10_000
# Objects listed by name where all of them may be a million.
MAX_NAMED_OBJECTS = 50


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Paginator that counts up to a bound: past page 200 people search instead."""

    @cached_property
    def count(self) -> int:
        rows = self.object_list.order_by().values("pk")[:MAX_COUNTED_ROWS]  # type: ignore
        return int(rows.count())


class LargeTableAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Admin of a table with up to millions of rows."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50


class DeletingAdmin(LargeTableAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(DeletingAdmin):
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ApiToken)
class ApiTokenAdmin(DeletingAdmin):
    """Lists tokens and revokes them; people make their own on their account page."""

    list_display = ("token_key", "name", "user", "created", "expiry")
    list_select_related = ("user",)
    search_fields = ("=user__username", "name")
    ordering = ("-created",)
    fields = list_display
