"""URLs under /api/v1/; the trailing slash is optional in all of them."""

from rest_framework.routers import SimpleRouter

from items.api import ChangeViewSet, ItemViewSet

router = SimpleRouter()
router.trailing_slash = "/?"
router.register("items", ItemViewSet, "item")
router.register("changes", ChangeViewSet, "change")
urlpatterns = router.urls
