"""Route names: the URL pattern of a path, by which requests are counted and logged.

Clients can send any number of paths; patterns are few.
"""

import re
from functools import lru_cache

from django.conf import settings
from django.urls import Resolver404, resolve

UNKNOWN, STATIC, PROBE = "(unknown)", "(static)", "(probe)"
PROBES = {"/livez", "/readyz", "/metrics"}
MAX_PATH = 512
_parameter = re.compile(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>")


def route_of(path: str) -> str:
    """Return the pattern of the path, such as `/api/v1/items/<id>`."""
    return _route_of(path) if len(path) <= MAX_PATH else UNKNOWN


@lru_cache(maxsize=16_384)
def _route_of(path: str) -> str:
    if path.rstrip("/") in PROBES:
        return PROBE
    if path.startswith(f"/{settings.STATIC_URL.strip('/')}/"):
        return STATIC
    try:
        return name_pattern(resolve(path).route)
    except Resolver404:
        return UNKNOWN


@lru_cache(maxsize=1_024)
def name_pattern(route: str) -> str:
    named = _parameter.sub(lambda found: f"<{found[1] or found[2]}>", route)
    return f"/{named.removesuffix('$').removesuffix('/?').replace('^', '')}"
