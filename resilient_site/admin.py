from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from resilient_site.models import ApiToken


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Whose tokens there are, and revoking them; people make their own."""

    list_display = ("token_key", "name", "user", "created", "expiry")
    list_select_related = ("user",)
    search_fields = ("=user__username", "name")
    ordering = ("-created",)
    fields = ("token_key", "name", "user", "created", "expiry")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
