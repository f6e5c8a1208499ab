"""URLs under /api/v1/; the trailing slash is optional in all of them."""

from typing import Any

from django.urls import re_path

from items.api import ChangeViewSet, ItemViewSet

COLLECTION: dict[str, Any] = {"get": "list", "post": "create"}
ONE: dict[str, Any] = {
    "get": "retrieve",
    "put": "update",
    "patch": "partial_update",
    "delete": "destroy",
}

urlpatterns = [
    re_path(r"^items/?$", ItemViewSet.as_view(COLLECTION), name="items"),
    re_path(r"^items/bulk/?$", ItemViewSet.as_view({"post": "bulk"}), name="bulk"),
    re_path(r"^items/export/?$", ItemViewSet.as_view({"get": "export"}), name="export"),
    re_path(
        r"^items/(?P<id>[^/]+)/history/?$",
        ItemViewSet.as_view({"get": "history"}),
        name="history",
    ),
    re_path(r"^items/(?P<id>[^/]+)/?$", ItemViewSet.as_view(ONE), name="item"),
    re_path(r"^changes/?$", ChangeViewSet.as_view({"get": "list"}), name="changes"),
    re_path(
        r"^changes/events/?$",
        ChangeViewSet.as_view({"get": "events"}),
        name="change-events",
    ),
]
