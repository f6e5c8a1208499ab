"""How a view says that its answer is the same for everybody, and for how long.

It says so in HTTP's own words (RFC 9111, RFC 5861), which our edge, nginx and any
other shared cache understand. Only two things HTTP has no words for are said beside:
which parameters of the query count, so that others do not make new copies, and what
the answer was made of, so that a change of it is seen at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, ResolverMatch, resolve
from rest_framework.request import Request

# Seconds: taken for current; shown while a new one is fetched; shown for want of it.
FRESH_S = 10
STALE_S = 60
LAST_KNOWN_S = 24 * 3600

SHARED = (
    f"public, max-age=0, s-maxage={FRESH_S}, stale-while-revalidate={STALE_S}, "
    f"stale-if-error={LAST_KNOWN_S}"
)
# Asked for anew each time, but better an old one than none.
OWN = f"private, no-cache, stale-if-error={LAST_KNOWN_S}"
# For the edge alone, which takes it out.
TAGS = "Cache-Tag"
# Changed with the permissions of any group, which are those of many people.
GROUPS = "groups"
RELEVANT = frozenset(
    b"host cookie authorization content-length transfer-encoding x-request-id "
    b"traceparent if-none-match if-modified-since if-match if-unmodified-since".split()
)


@dataclass(frozen=True)
class Shared:
    """What about a request makes a difference to a shared answer."""

    parameters: tuple[str, ...] = ()
    headers: tuple[bytes, ...] = ()

    @cached_property
    def relevant_headers(self) -> frozenset[bytes]:
        """All headers that count for whether and how a shared response is sent."""
        return RELEVANT.union(self.headers)

    @cached_property
    def without_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What a request says that has none of `headers`."""
        return tuple((name, b"") for name in self.headers)


def shared[V: Callable[..., Any]](
    *parameters: str, headers: tuple[str, ...] = ()
) -> Callable[[V], V]:
    """Mark a view whose answers, without cookie and token, are the same for all."""

    def decorate(view: V) -> V:
        names = tuple(name.lower().encode() for name in headers)
        view.shared = Shared(parameters, names)  # type: ignore[attr-defined]
        return view

    return decorate


def share(response: HttpResponseBase, *tags: str) -> None:
    """Say that this answer is the same for everybody, and what it is made of."""
    response["Cache-Control"] = SHARED
    response[TAGS] = " ".join(tags)


def share_with_strangers(
    request: HttpRequest | Request, response: HttpResponseBase, *tags: str
) -> None:
    """The same of an answer that says more to those who are signed in."""
    if request.user.is_authenticated:
        response["Cache-Control"] = OWN
    else:
        share(response, *tags)


def user_tag(pk: object) -> str:
    return f"user:{pk}"


def how_shared(path: str) -> Shared | None:
    """Return what the view at this path says of its answers; None: nothing."""
    try:
        match: ResolverMatch = resolve(path)
    except Resolver404:
        return None
    view: Any = match.func
    if actions := getattr(view, "actions", None):
        view = getattr(view.cls, actions.get("get", ""), None)
    found = getattr(view, "shared", None)
    return found if isinstance(found, Shared) else None
