"""URLs under /api/v1/; the trailing slash is optional in all of them."""

from typing import Any

from django.urls import re_path
from rest_framework.routers import SimpleRouter

from items.api import ChangeViewSet, ItemViewSet
from items.bulk.api import BulkViewSet
from items.bulk.batches_api import BatchViewSet
from items.collections.api import CollectionViewSet
from items.collections.lookup_api import LookupView, TranslateView
from items.tags.api import TagViewSet

router = SimpleRouter()
router.trailing_slash = "/?"
router.register("items", ItemViewSet, "item")
router.register("collections", CollectionViewSet, "collection")
router.register("changes", ChangeViewSet, "change")
router.register("batches", BatchViewSet, "batch")
ITEM: dict[str, Any] = {
    "get": "retrieve",
    "put": "update",
    "patch": "partial_update",
    "delete": "destroy",
}
BULK: dict[str, Any] = {
    "post": "bulk_create",
    "put": "bulk_replace",
    "patch": "bulk_change",
    "delete": "bulk_delete",
}
OR_BULK: dict[str, Any] = {
    "get": "retrieve",
    "post": "bulk_create",
    "put": "update_or_bulk",
    "patch": "partial_update_or_bulk",
    "delete": "destroy_or_bulk",
}
bulk = BulkViewSet.as_view(OR_BULK, schema=None)
export = ItemViewSet.as_view(ITEM | {"get": "retrieve_or_export"}, schema=None)
facets = ItemViewSet.as_view(ITEM | {"get": "retrieve_or_facets"}, schema=None)
TAG: dict[str, Any] = {
    "get": "retrieve",
    "patch": "partial_update",
    "delete": "destroy",
}
COLLECTION = "^collections/(?P<key>[^/]+)"
urlpatterns = [
    re_path(f"{COLLECTION}/lookup/?$", LookupView.as_view(), name="lookup"),
    re_path(f"{COLLECTION}/translate/?$", TranslateView.as_view(), name="translate"),
    re_path("^items/-/bulk/?$", BulkViewSet.as_view(BULK), name="item-bulk"),
    # For short, as items of these names have them too.
    re_path("^items/(?P<id>bulk)/?$", bulk),
    re_path("^items/(?P<id>export)/?$", export),
    re_path("^items/(?P<id>facets)/?$", facets),
    *router.urls,
    re_path("^tags/?$", TagViewSet.as_view({"get": "list"}), name="tag-list"),
    # A name may have slashes.
    re_path("^tags/(?P<name>.+)/merge/?$", TagViewSet.as_view({"post": "merge"})),
    re_path("^tags/(?P<name>.+?)/?$", TagViewSet.as_view(TAG), name="tag-detail"),
]
