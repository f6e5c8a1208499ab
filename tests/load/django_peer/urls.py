from django.urls import include, path
from rest_framework.routers import DefaultRouter

from tests.load.django_peer.ninja_api import api
from tests.load.django_peer.rest import ItemViewSet

router = DefaultRouter()
router.register("items", ItemViewSet)
urlpatterns = [path("", include(router.urls)), path("ninja/", api.urls)]
