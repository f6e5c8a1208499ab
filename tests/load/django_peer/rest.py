"""A ModelViewSet, and one action for lists; the URLs of both frameworks."""

from django.db import transaction
from django.urls import include, path
from rest_framework.decorators import action
from rest_framework.filters import SearchFilter
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.viewsets import ModelViewSet

from tests.load.django_peer.models import Item
from tests.load.django_peer.ninja_api import api


class ItemSerializer(ModelSerializer):
    class Meta:
        model = Item
        fields = "__all__"


class ItemViewSet(ModelViewSet):
    queryset = Item.objects.all()
    serializer_class = ItemSerializer
    filter_backends = [SearchFilter]
    search_fields = ["name", "description"]

    @action(detail=False, methods=["post"])
    def bulk(self, request: Request) -> Response:
        rows = self.get_serializer(data=request.data, many=True)
        rows.is_valid(raise_exception=True)
        items = Item.objects.bulk_create(Item(**row) for row in rows.validated_data)
        return Response(self.get_serializer(items, many=True).data, 201)

    @action(detail=False, methods=["post"])
    def documented(self, request: Request) -> Response:
        """As the documentation of DRF has it: `many=True`, which saves row by row."""
        rows = self.get_serializer(data=request.data, many=True)
        rows.is_valid(raise_exception=True)
        with transaction.atomic():
            rows.save()
        return Response(rows.data, 201)


router = DefaultRouter()
router.register("items", ItemViewSet)
urlpatterns = [path("", include(router.urls)), path("ninja/", api.urls)]
