"""CORS headers of responses that the edge sends without Django: cached ones, errors.

What they are is decided in one place, the middleware of django-cors-headers. Stored
responses have none of them, as they differ by the origin of the client.
"""

from functools import lru_cache

from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from resilient_site.edge.asgi_types import Headers
from resilient_site.edge.request import EdgeRequest
from resilient_site.errors import REST_PATH

# Browsers send no longer one: a host name has at most 253 characters.
ORIGIN_MAX = 300
VARY = (b"vary", b"origin")


def adds_cors_headers(path: str) -> bool:
    """Return whether responses at this path differ by the origin of the client."""
    is_enabled = settings.CORS_ALLOWED_ORIGINS or settings.CORS_ALLOW_ALL_ORIGINS
    return bool(is_enabled) and path.startswith(REST_PATH)


def cors_headers(request: EdgeRequest) -> Headers:
    origin = request.headers.get(b"origin")
    if not origin or len(origin) > ORIGIN_MAX or not adds_cors_headers(request.path):
        return []
    return _headers_for(origin)


@lru_cache(maxsize=256)
def _headers_for(origin: bytes) -> Headers:
    request, response = HttpRequest(), HttpResponse()
    request.path_info = REST_PATH
    request.META["HTTP_ORIGIN"] = origin.decode("latin-1")
    CorsMiddleware(lambda _: response)(request)
    return [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in response.headers.items()
        if name.lower().startswith("access-control-")
    ]
