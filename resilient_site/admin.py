from typing import Any

import axes.admin  # noqa: F401 - registers what is registered anew
import django.contrib.auth.admin  # noqa: F401
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin, messages
from django.contrib.admin import actions
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.models import Group, User
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.db.utils import DataError, NotSupportedError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy

from resilient_site.edge.policy import policy
from resilient_site.models import ApiToken

MAX_COUNTED_ROWS = 10_000
# Objects listed by name where all of them may be a million.
MAX_NAMED_OBJECTS = 50
# Of actions that treat one object after the other.
MAX_SELECTED_OBJECTS = 1_000
# Of a deletion, which a browser waits for: nginx waits 75 s.
MAX_DELETED_OBJECTS = 10_000


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Paginator that counts up to a bound: past page 200 people search instead."""

    @cached_property
    def _counted(self) -> int:
        rows = self.object_list.order_by().values("pk")[: MAX_COUNTED_ROWS + 1]  # type: ignore
        return int(rows.count())

    @property
    def count(self) -> int:
        return min(self._counted, MAX_COUNTED_ROWS)

    @property
    def has_more(self) -> bool:
        """Return whether there are more than `count`, which the templates say."""
        return self._counted > MAX_COUNTED_ROWS


class CheckedLookups(admin.ModelAdmin):  # type: ignore[type-arg]
    """Admin that takes what the database cannot look up as any other wrong value."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        # Slow, and a malformed one looks like a failure of SQLite.
        if lookup.endswith(("__regex", "__iregex")):
            return False
        return super().lookup_allowed(lookup, value, request)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        try:
            return super().get_changelist_instance(request)
        except (
            DataError, NotSupportedError, IndexError, OverflowError, TypeError,
            ValueError,
        ) as error:  # fmt: skip
            raise IncorrectLookupParameters from error


class LargeTableAdmin(CheckedLookups):
    """Admin of a table with up to millions of rows."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    # An action may be on a selection of everything.
    @policy(heavy_writes=True)
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, extra_context)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Return the number, and the names of some: all of them may be a million."""
        number = objs.count() if isinstance(objs, QuerySet) else len(objs)
        is_confirmed = bool(request.POST.get("post"))
        shown = [] if is_confirmed else objs[:MAX_NAMED_OBJECTS]
        named = [str(found) for found in shown]
        if number > MAX_NAMED_OBJECTS:
            named.append(f"… and {number - MAX_NAMED_OBJECTS:,} more")
        return named, {str(self.opts.verbose_name_plural): number}, set(), []

    def has_few(
        self, request: HttpRequest, selected: QuerySet[Any], most: int | None = None
    ) -> bool:
        """Return whether an action can treat so many in a request; report it if not."""
        most = most or MAX_SELECTED_OBJECTS
        keys = selected.order_by().values("pk")[: most + 1]
        if keys.count() <= most:
            return True
        text = (
            f"Nothing was done: this action takes up to {most:,} "
            f"{self.opts.verbose_name_plural} at a time. Select fewer."
        )
        self.message_user(request, text, messages.ERROR)
        return False

    def can_delete(self, request: HttpRequest, selected: QuerySet[Any]) -> bool:
        """Return whether a request can delete so many; report it if not."""
        return self.has_few(request, selected, MAX_DELETED_OBJECTS)


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


def count_across(
    modeladmin: "admin.ModelAdmin[Any]", request: HttpRequest, queryset: QuerySet[Any]
) -> str | None:
    """Return the size of a selection across pages, empty if it is not across them.

    None, and reported, if it is not the selection any more that is being confirmed.
    """
    if request.POST.get("select_across") != "1":
        return ""
    number = str(queryset.count())
    if request.POST.get("number", number) == number:
        return number
    text = "The selection has changed meanwhile. Please look at it again."
    modeladmin.message_user(request, text, messages.WARNING)
    return None


@admin.action(
    permissions=["delete"],
    description=gettext_lazy("Delete selected %(verbose_name_plural)s"),
)
def delete_selected(
    modeladmin: "admin.ModelAdmin[Any]", request: HttpRequest, queryset: QuerySet[Any]
) -> HttpResponse | None:
    """Delete as the admin does; a selection across pages is not listed in a form."""
    match modeladmin:
        case LargeTableAdmin() if not modeladmin.can_delete(request, queryset):
            return None
    number = count_across(modeladmin, request, queryset)
    if number is None:
        return None
    if request.POST.get("post"):  # it counts all by reading them
        queryset = queryset.prefetch_related(None)
    response = actions.delete_selected(modeladmin, request, queryset)
    if isinstance(response, TemplateResponse):
        listed = queryset[:1] if number else queryset
        context = response.context_data or {}
        response.context_data = context | {"queryset": listed, "number": number}
    return response


admin.site.add_action(delete_selected, "delete_selected")

for others in (User, Group, AccessAttempt, AccessLog, AccessFailureLog):
    theirs: Any = type(admin.site.get_model_admin(others))
    admin.site.unregister(others)
    admin.site.register(others, type(theirs.__name__, (CheckedLookups, theirs), {}))
