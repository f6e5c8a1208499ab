"""Cached responses: how old they are, how they are stored, and sent fresh or stale."""

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self
from zlib import crc32

import orjson
from django.http import HttpResponse

from resilient_site.api.conditional import evaluate
from resilient_site.edge.asgi_types import Headers, Send
from resilient_site.edge.cache.invalidation import (
    Mark,
    boot_id,
    invalidations,
    mark,
    now,
    receives_all_invalidations,
)
from resilient_site.edge.request import CSRF_COOKIE, EdgeRequest
from resilient_site.edge.wsgi_bridge import Response
from resilient_site.errors import PROBLEM_TYPE
from resilient_site.observability import request_id

logger = logging.getLogger(__name__)

# What the edge did, for the access log: stands in the ASGI scope.
EDGE_ACTION = "resilient_site.edge"
HIT, STALE, STORED, COLLAPSED = "hit", "stale", "stored", "collapsed"
BODY_MAX_BYTES = 1024 * 1024
# Headers of one response to one client (RFC 9110, section 7.6.1, and the site's own).
NOT_STORED = {
    b"connection", b"keep-alive", b"date", b"age", b"cache-status", b"cache-tag",
    b"x-request-id", b"ratelimit", b"ratelimit-policy", b"retry-after", b"set-cookie",
    b"transfer-encoding", b"access-control-allow-origin",
    b"access-control-expose-headers",
}  # fmt: skip
# Responses that say nothing about whether a stored one still holds.
SAYS_NOTHING = {304, 408, 429}
IN_304 = {b"cache-control", b"content-location", b"etag", b"expires", b"vary"}
NOT_WITH_NOTICE = IN_304 | {b"last-modified", b"content-length"}
# The place in a page where the notice goes.
NOTICE_PLACE = b"<!-- notice -->"
NOTICE = (
    '<p class="notice degraded" role="status">This is how it was at '
    '<time datetime="{iso}">{text}</time>. The latest state cannot be shown at the '
    "moment, and nothing can be changed.</p>"
)
# Memory of one response beside its text: measured, and rounded up.
OVERHEAD_BYTES, HEADER_BYTES = 1024, 192
AGE_MAX_S = 2**31
PROBLEM_BYTES = PROBLEM_TYPE.encode()
_AGES = ("s-maxage", "stale-while-revalidate", "stale-if-error")
_directive = re.compile(r"([a-z-]+)(?:=\"?([0-9]+)\"?)?").findall


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A response, and how long it is usable for what: 200, or a problem with 404."""

    headers: Headers
    body: bytes
    mark: Mark
    fresh_s: int
    stale_while_revalidate_s: int
    stale_if_error_s: int
    status: int = 200
    stored: float = field(default_factory=time.monotonic, kw_only=True)
    # Since when this content is in the other tiers.
    written: float = field(default_factory=time.monotonic, kw_only=True, compare=False)
    size: int = field(init=False)  # bytes of memory

    def __post_init__(self) -> None:
        text = sum(len(name) + len(value) for name, value in self.headers)
        beside = HEADER_BYTES * len(self.headers) + OVERHEAD_BYTES
        object.__setattr__(self, "size", len(self.body) + text + beside)

    @classmethod
    def from_response(cls, response: Response, read_at: int) -> Self | None:
        """Return what was read at the moment `read_at`, if it may be stored at all.

        What a replica has given is as old as that is.
        """
        headers, body = response.headers, response.body
        # Without its length it cannot be known to be whole.
        is_whole = (b"content-length", b"%d" % len(body)) in headers
        is_storable = response.status == 200 or (
            response.status == 404 and (b"content-type", PROBLEM_BYTES) in headers
        )
        if not is_storable or not is_whole or len(body) > BODY_MAX_BYTES:
            return None
        rules = _rules(dict(headers).get(b"cache-control", b""))
        cookies = [value for name, value in headers if name == b"set-cookie"]
        # The CSRF cookie of a private page is renewed with each response.
        if not all(value.startswith(CSRF_COOKIE) for value in cookies):
            return None
        ages = {name: min(int(rules.get(name) or 0), AGE_MAX_S) for name in _AGES}
        if "public" not in rules or cookies or rules.keys() & {"private", "no-cache"}:
            ages |= {"s-maxage": 0, "stale-while-revalidate": 0}
        kept = [(n, v) for n, v in headers if n not in NOT_STORED]
        made_of = mark(response.as_of or read_at, response.tags.split())
        fresh_s, revalidated_s, error_s = ages.values()
        copy = cls(
            kept, body, made_of, fresh_s, revalidated_s, error_s, response.status
        )
        if response.as_of:
            copy = replace(copy, stored=response.as_of / 1e9)
        is_usable = any(ages.values()) and "no-store" not in rules
        return copy if is_usable and b"*" not in copy.vary else None

    def encode(self, key: str, clock_s: float) -> bytes:
        """Return it as bytes: JSON of all the rest, then the body.

        `clock_s` is a time at or before this moment, of the clock that its age is
        counted by.
        """
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in self.headers]
        limits = [self.fresh_s, self.stale_while_revalidate_s, self.stale_if_error_s]
        # Left out where it can be: the release before this one knows only 200.
        limits += [self.status] if self.status != 200 else []
        read_s = clock_s - (now() - self.mark.at) / 1e9
        times = boot_id(), *self.mark, read_s, clock_s - self.age
        about = key, crc32(self.body), headers, limits, times
        return orjson.dumps(about) + b"\0" + self.body

    @classmethod
    def decode(cls, key: str, data: bytes, clock_s: float, moment: int) -> Self | None:
        """Return the response of `key`, None if it is of another key or damaged.

        `clock_s` is the present time of the clock that `encode` was given, and `moment`
        one at or before it; or 0 where changes before this boot are not known.
        """
        try:
            text, _, body = data.partition(b"\0")
            name, check, headers, limits, times = orjson.loads(text)
            if name != key:
                return None
            if check != crc32(body):
                raise ValueError("its body is damaged")
            boot, read_at, slots, read_s, stored_s = times
            if boot != boot_id():
                read_at = moment - int(max(0.0, clock_s - read_s) * 1e9)
            return cls(
                [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers],
                body,
                Mark(read_at, tuple(slots)),
                *map(int, limits),
                stored=time.monotonic() - max(0.0, clock_s - stored_s),
            )
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            logger.warning("A stored response cannot be read: %s", error)
            return None

    @property
    def vary(self) -> frozenset[bytes]:
        """The names of the request headers that the response depends on."""
        return _names(dict(self.headers).get(b"vary", b""))

    @property
    def varies_by_token(self) -> bool:
        return b"authorization" in self.vary

    @property
    def age(self) -> float:
        return time.monotonic() - self.stored

    def is_fresh(self) -> bool:
        return self.age < self.fresh_s and invalidations.is_current(self.mark)

    def is_usable_while_revalidating(self) -> bool:
        """Return whether it is usable while it is fetched anew (RFC 5861, section 3).

        Not if it is known to be outdated, as a change is seen at once; nor where the
        change of another machine may have been missed.
        """
        limit = self.fresh_s + self.stale_while_revalidate_s
        return (
            self.age < limit
            and invalidations.is_current(self.mark)
            and receives_all_invalidations()
        )

    def as_stale(self) -> Self:
        """Return it for the time in which there is no fresh one."""
        return replace(self, fresh_s=0, stale_while_revalidate_s=0)

    def is_usable_if_error(self) -> bool:
        voided_at = invalidations.voided_at
        # After a restart of the machine its moment may be negative.
        if voided_at > 0 and self.stored * 1e9 <= voided_at:
            return False
        return self.age < self.fresh_s + self.stale_if_error_s

    async def send(
        self,
        request: EdgeRequest,
        send: Send,
        extra: Headers,
        action: str = HIT,
        detail: bytes = b"",
    ) -> None:
        """Send it with Age and Cache-Status (RFC 9211); 304 if the client has it."""
        age = self.age
        how = b"hit" if action == HIT else b"fwd=uri-miss; " + action.encode()
        status = b"resilient-site; %b; ttl=%d%b" % (how, self.fresh_s - age, detail)
        is_stale = action == HIT and (detail or age > self.fresh_s)
        request.scope[EDGE_ACTION] = STALE if is_stale else action
        more = [(b"age", b"%d" % age), (b"cache-status", status), *extra]
        if self.status != 200:
            await self._send_problem(request, send, more)
        elif self._is_known_to(request):
            kept = [(n, v) for n, v in self.headers if n in IN_304]
            await send_answer(request, send, 304, kept + more, b"")
        else:
            await send_answer(request, send, 200, self.headers + more, self.body)

    async def _send_problem(
        self, request: EdgeRequest, send: Send, more: Headers
    ) -> None:
        """Send it with the id of this request, in the document too."""
        own = {"request_id": dict(more)[request_id.HEADER_BYTES].decode()}
        body = orjson.dumps(orjson.loads(self.body) | own)
        headers = [(n, v) for n, v in self.headers if n != b"content-length"]
        headers += [(b"content-length", b"%d" % len(body)), *more]
        await send_answer(request, send, self.status, headers, body)

    async def send_stale(
        self, request: EdgeRequest, send: Send, extra: Headers
    ) -> None:
        """Send it marked as stale, in its headers and on a page."""
        content_type = dict(self.headers).get(b"content-type", b"")
        is_page = NOTICE_PLACE in self.body and content_type.startswith(b"text/html")
        stale = self._with_notice() if is_page else self
        await stale.send(request, send, extra, detail=b"; detail=origin-failed")

    def _with_notice(self) -> Self:
        """Return the page with the notice, which is neither stored nor revalidated."""
        then = datetime.fromtimestamp(time.time() - self.age, UTC)
        text = f"{then:%H:%M:%S} UTC on {then:%-d %B %Y}"
        notice = NOTICE.format(iso=then.isoformat(timespec="seconds"), text=text)
        body = self.body.replace(NOTICE_PLACE, notice.encode(), 1)
        headers = [(n, v) for n, v in self.headers if n not in NOT_WITH_NOTICE]
        headers.append((b"cache-control", b"no-store"))
        headers.append((b"content-length", b"%d" % len(body)))
        return replace(self, headers=headers, body=body)

    def _is_known_to(self, request: EdgeRequest) -> bool:
        """Return whether the answer is 304. Raises SiteError for 412."""
        if not request.is_conditional:
            return False
        values = {name: value.decode("latin-1") for name, value in self.headers}
        sent = request.headers.items()
        return evaluate(
            request.method,
            {name.decode(): value.decode("latin-1") for name, value in sent},
            etag=values.get(b"etag"),
            last_modified=values.get(b"last-modified"),
        )


@lru_cache(maxsize=64)
def _rules(cache_control: bytes) -> dict[str, str]:
    return dict(_directive(cache_control.decode("latin-1").lower()))


@lru_cache(maxsize=64)
def _names(header: bytes) -> frozenset[bytes]:
    names = header.lower().split(b",")
    return frozenset(name.strip() for name in names if name.strip())


def invalidates_cached_response(status: int) -> bool:
    """Return whether a response with 200 that was stored before does not hold now."""
    return 300 <= status < 500 and status not in SAYS_NOTHING


def headers_of(response: HttpResponse) -> Headers:
    """Return the headers of a Django response as ASGI has them."""
    return [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]


async def send_answer(
    request: EdgeRequest,
    send: Send,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    content = b"" if request.method == "HEAD" else body
    await send({"type": "http.response.body", "body": content})
