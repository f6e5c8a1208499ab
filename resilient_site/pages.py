"""What the HTML pages of every app share: the typed request, and who may do what."""

from collections.abc import Callable

from django.contrib.auth.decorators import login_required, permission_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_http_methods
from django_htmx.middleware import HtmxDetails

form_methods = require_http_methods(["GET", "HEAD", "POST"])


class HtmxRequest(HttpRequest):
    """A request as the middleware of django-htmx leaves it."""

    htmx: HtmxDetails


def require_permissions[V: Callable[..., HttpResponseBase]](
    *permissions: str,
) -> Callable[[V], V]:
    """Ask anonymous visitors to sign in; answer 403 to users without `permissions`."""

    def decorate(view: V) -> V:
        return login_required(
            permission_required(permissions, raise_exception=True)(view)
        )

    return decorate
