from django.conf import settings
from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from resilient_site.accounts import views as accounts
from resilient_site.health import views as status
from resilient_site.observability.views import metrics

admin.site.site_header = admin.site.site_title = "Resilient Site"

urlpatterns = [
    # First, as most requests are for it, and patterns are tried in this order.
    path("api/v1/", include("resilient_site.api.urls")),
    path(
        "favicon.ico",
        login_not_required(RedirectView.as_view(url=static("icon.svg"))),
    ),
    path("", RedirectView.as_view(pattern_name="items:list"), name="home"),
    path("items/", include("items.urls")),
    path("collections/", include("items.collections.urls")),
    path("jobs/", include("compute.urls")),
    path("account/", include("resilient_site.accounts.urls")),
    re_path("^livez/?$", status.live, name="live"),
    re_path("^readyz/?$", status.ready, name="ready"),
    re_path("^metrics/?$", metrics, name="metrics"),
    path("status/", status.status, name="status"),
    path(
        "status/breakers/<str:name>/", status.override_breaker, name="override-breaker"
    ),
    path(f"{settings.ADMIN_PATH}login/", accounts.admin_sign_in),
    # The admin's own page would check a password that no lock-out counts.
    path(
        f"{settings.ADMIN_PATH}password_change/",
        RedirectView.as_view(pattern_name="account:security"),
    ),
    path(settings.ADMIN_PATH, admin.site.urls),
]

handler400 = handler403 = handler404 = "resilient_site.errors.respond_to_exception"
handler500 = "resilient_site.errors.server_error"
