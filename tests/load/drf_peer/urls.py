from django.urls import include, path
from rest_framework.filters import SearchFilter
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.viewsets import ModelViewSet

from tests.load.drf_peer.models import Item


class ItemSerializer(ModelSerializer):
    class Meta:
        model = Item
        fields = "__all__"


class ItemViewSet(ModelViewSet):
    queryset = Item.objects.all()
    serializer_class = ItemSerializer
    filter_backends = [SearchFilter]
    search_fields = ["name", "description"]


router = DefaultRouter()
router.register("items", ItemViewSet)
urlpatterns = [path("", include(router.urls))]
