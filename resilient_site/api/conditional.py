"""Conditional requests (RFC 9110, section 13): the one evaluator of their headers.

What is malformed is an error (400) where it would guard a request, since a client that
sends `If-Match: 2` believes that it is protected. On reads a malformed If-None-Match
matches nothing, and dates that cannot be parsed are ignored, as the RFC says.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from django.conf import settings
from django.utils.http import http_date, parse_etags, parse_http_date_safe
from rest_framework.request import Request

from resilient_site.errors import (
    Invalid,
    PreconditionFailed,
    PreconditionRequired,
    StaleVersion,
)

HEADERS = frozenset(
    (b"if-match", b"if-unmodified-since", b"if-none-match", b"if-modified-since")
)
# As Django names them in META: a request with none of them needs no evaluation.
META_NAMES = frozenset(
    f"HTTP_{name.decode().upper().replace('-', '_')}" for name in HEADERS
)
SAFE_METHODS = ("GET", "HEAD")


def evaluate(
    method: str,
    headers: Mapping[str, str],
    *,
    etag: str | None,
    last_modified: str | None,
    exists: bool = True,
) -> bool:
    """Return whether the client has this representation already: the answer is 304.

    `headers` is looked up by lower-case names. A resource that is to be created does
    not exist. Raises PreconditionFailed, StaleVersion where it was changed since the
    client read it, and Invalid.
    """
    is_read = method in SAFE_METHODS
    modified = _parse_date(last_modified)
    if (header := headers.get("if-match")) is not None:
        if not _matches("If-Match", header, etag, weak=False, exists=exists):
            raise StaleVersion
    elif (header := headers.get("if-unmodified-since")) is not None:
        at = _parse_date(header) if is_read else _parse_guard(header)
        if at is not None and modified is not None and modified > at:
            raise StaleVersion
    if (header := headers.get("if-none-match")) is not None:
        if is_read and not _parse_tags(header):
            return False
        if not _matches("If-None-Match", header, etag, weak=True, exists=exists):
            return False
        if not is_read:
            raise PreconditionFailed
        return True
    if is_read and (at := _parse_date(headers.get("if-modified-since"))) is not None:
        return modified is not None and modified <= at
    return False


class Versioned(Protocol):
    updated_at: datetime

    @property
    def etag(self) -> str: ...


def precondition_of(request: Request) -> Callable[[Versioned], None] | None:
    """Return the precondition in the headers of a write, to be checked under a lock."""
    if settings.REQUIRE_IF_MATCH and "If-Match" not in request.headers:
        raise PreconditionRequired
    if META_NAMES.isdisjoint(request.META):
        return None

    def check(found: Versioned) -> None:
        evaluate(
            str(request.method),
            request.headers,
            etag=found.etag,
            last_modified=http_date(found.updated_at.timestamp()),
        )

    return check


def _matches(
    name: str, header: str, etag: str | None, *, weak: bool, exists: bool
) -> bool:
    """Return whether one of the tags in `header` is `etag` (section 8.8.3.2)."""
    tags = _parse_tags(header)
    if not tags:
        raise Invalid(
            f"{name} is not well-formed: it takes entity tags in double quotes, such "
            f'as "2", separated by commas, or an asterisk; not {header[:100]!r}.'
        )
    if tags == ["*"]:
        return exists
    if etag is None:
        return False
    if weak:
        return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}
    return not etag.startswith("W/") and etag in tags


def _parse_tags(header: str) -> list[str]:
    """Return the entity tags in `header`; none if one of them is malformed."""
    tags = parse_etags(header)  # leaves out what is malformed
    elements = [element for element in header.split(",") if element.strip()]
    return tags if len(tags) == len(elements) else []


def _parse_guard(header: str) -> int:
    at = _parse_date(header)
    if at is None:
        raise Invalid(
            "If-Unmodified-Since is not well-formed: it takes an HTTP date, such as "
            f"{http_date(0)}; not {header[:100]!r}."
        )
    return at


def _parse_date(text: str | None) -> int | None:
    """Return the seconds since the epoch; None if `text` is not an HTTP date."""
    return parse_http_date_safe(text) if text else None
