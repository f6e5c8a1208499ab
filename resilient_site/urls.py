from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="items:list"), name="home"),
    path("items/", include("items.urls")),
    path("account/", include("resilient_site.account_urls")),
    path("admin/", admin.site.urls),
    path("api/v1/", include("resilient_site.api_urls")),
]

handler400 = "resilient_site.errors.bad_request"
handler403 = "resilient_site.errors.forbidden"
handler404 = "resilient_site.errors.not_found"
handler500 = "resilient_site.errors.server_error"
