from typing import Any

from django.core.cache import cache
from django.urls import include, path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import BaseSerializer

from tests.load.django_peer.rest import ItemViewSet

KEPT_S = 60


class CachedViewSet(ItemViewSet):
    """Items are cached in Redis, and deleted when they change."""

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        key = f"item:{kwargs['pk']}"
        data = cache.get(key)
        if data is None:
            data = super().retrieve(request, *args, **kwargs).data
            cache.set(key, dict(data), KEPT_S)
        return Response(data)

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        serializer.save()
        cache.delete(f"item:{serializer.instance.pk}")


router = DefaultRouter()
router.register("items", CachedViewSet)
urlpatterns = [path("", include(router.urls))]
