"""The pattern that a path belongs to: what may be counted by, where a path may not."""

import re
from functools import lru_cache

from django.conf import settings
from django.urls import Resolver404, resolve

UNKNOWN, STATIC, PROBE = "(unknown)", "(static)", "(probe)"
PROBES = {"/livez", "/readyz", "/metrics"}
PATH_MAX = 512


_group = re.compile(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>")


def route_of(path: str) -> str:
    return _route_of(path) if len(path) <= PATH_MAX else UNKNOWN


@lru_cache(maxsize=16_384)
def _route_of(path: str) -> str:
    if path.rstrip("/") in PROBES:
        return PROBE
    if path.startswith(f"/{settings.STATIC_URL.strip('/')}/"):
        return STATIC
    try:
        return f"/{_readable(resolve(path).route)}"
    except Resolver404:
        return UNKNOWN


def _readable(route: str) -> str:
    named = _group.sub(lambda found: f"<{found[1] or found[2]}>", route)
    return named.removesuffix("$").removesuffix("/?").replace("^", "")
