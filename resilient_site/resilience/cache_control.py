"""Cache-Control of responses: for how long they are fresh, and how long usable stale.

It is HTTP's own (RFC 9111, RFC 5861), which the edge, nginx and any other shared cache
understand. The tags of what a response was made of are for the edge alone, so that a
change is seen at once. Whether a view shares responses at all, it states in its policy
(`edge.policy`).
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request

# Seconds: fresh; usable while it is fetched anew; usable when that fails.
FRESH_S = 10
STALE_S = 60
STALE_IF_ERROR_S = 24 * 3600
# Fresh for so long is what nothing but a purge can change.
SETTLED_S = 3600

SHARED = (
    "public, max-age=0, s-maxage={fresh_s}, stale-while-revalidate={stale_s}, "
    f"stale-if-error={STALE_IF_ERROR_S}"
)
# Fetched anew each time; the stale one is usable when that fails.
OWN = f"private, no-cache, stale-if-error={STALE_IF_ERROR_S}"
# The edge removes this header.
TAGS = "Cache-Tag"
# The tag of all that depends on the permissions of a group.
GROUPS = "groups"
# The tag of all that is for one client alone.
PRIVATE = "private"
# Begins the tag of what one token or session was sent.
CREDENTIAL = "credential:"


class Part(NamedTuple):
    """A result of a batch, as the response to a GET of its value alone has it."""

    status: int
    body: bytes
    tags: Collection[str]
    # Those that are not the same for all results.
    headers: Sequence[tuple[str, str]] = ()


def share(
    response: HttpResponseBase,
    *tags: str,
    true_for_s: float = math.inf,
    is_settled: bool = False,
) -> None:
    """Mark a response as the same for all clients, made of what `tags` name.

    After `true_for_s` it is no longer true; if it `is_settled` only a purge changes it.
    In a private site it is for its client alone.
    """
    if not settings.PUBLIC_READ:
        response["Cache-Control"] = OWN
        return
    fresh_s = int(min(SETTLED_S if is_settled else FRESH_S, true_for_s))
    stale_s = int(min(STALE_S, true_for_s - fresh_s))
    response["Cache-Control"] = SHARED.format(fresh_s=fresh_s, stale_s=stale_s)
    response[TAGS] = " ".join(tags)


def share_parts(
    response: HttpResponseBase, parts: Sequence[Part], true_for_s: float = math.inf
) -> None:
    """Mark the response to a batch: the edge shares each of its results by itself."""
    share(response, true_for_s=true_for_s)
    response.parts = parts  # type: ignore[attr-defined]


def share_with_anonymous(
    request: HttpRequest | Request,
    response: HttpResponseBase,
    *tags: str,
    is_settled: bool = False,
) -> None:
    """The same for a response that shows more to authenticated clients."""
    if request.user.is_authenticated:
        response["Cache-Control"] = OWN
    else:
        share(response, *tags, is_settled=is_settled)


def user_tag(pk: object) -> str:
    return f"user:{pk}"


def credential_tag(digest: str) -> str:
    return f"{CREDENTIAL}{digest}"


def inactive_tag(pk: object) -> str:
    """Return the tag that says of a user: inactive, as a request with a token found.

    One of credentials: such requests can come at any rate, and change nothing.
    """
    return credential_tag(user_tag(pk))


def personal_tags(pk: object, credentials: Iterable[str]) -> list[str]:
    """Return the tags of what is known of a user by these credentials."""
    own = map(credential_tag, credentials)
    return [user_tag(pk), inactive_tag(pk), GROUPS, *own]
