"""The REST API, version 1."""

from django.conf import settings
from django.urls import include, path, re_path
from django.utils.csp import CSP
from django.views.decorators.csp import csp_override
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from resilient_site.api.views import StrictView

app_name = "api"

# Swagger UI sets styles in its elements.
docs_policy: dict[str, list[str]] = settings.SECURE_CSP | {
    "style-src": [CSP.SELF, CSP.UNSAFE_INLINE]
}
READING = ["get", "head"]


class SchemaView(StrictView, SpectacularAPIView):
    """The OpenAPI schema, which takes no parameters."""


schema = SchemaView.as_view(http_method_names=READING)
docs = SpectacularSwaggerSplitView.as_view(
    url_name="api:schema", http_method_names=READING
)

docs_page = csp_override(docs_policy)(docs)
# A page: in a private site it leads to sign-in, where REST answers 401.
docs_page.login_required = True  # type: ignore[attr-defined]

urlpatterns = [
    path("", include("items.api_urls")),
    path("", include("compute.api_urls")),
    re_path(r"^schema/?$", schema, name="schema"),
    re_path(r"^docs/?$", docs_page, name="docs"),
]
