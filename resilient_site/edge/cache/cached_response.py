"""Cached responses: how old they are, and how they are sent fresh or stale."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from django.http import HttpResponse

from resilient_site.api.conditional import conditional_headers, evaluate
from resilient_site.edge.asgi_types import Headers as Headers
from resilient_site.edge.asgi_types import Send
from resilient_site.edge.cache.invalidation import Mark, mark
from resilient_site.edge.request import CSRF_COOKIE, EdgeRequest
from resilient_site.edge.wsgi_bridge import Response

CACHE_NAME = b"resilient-site"
BODY_MAX_BYTES = 1024 * 1024
# Headers of one response to one client (RFC 9110, section 7.6.1, and the site's own).
NOT_STORED = {
    b"connection", b"keep-alive", b"date", b"age", b"cache-status", b"cache-tag",
    b"x-request-id", b"ratelimit", b"ratelimit-policy", b"retry-after", b"set-cookie",
    b"transfer-encoding", b"content-length",
}  # fmt: skip
# Responses that say nothing about whether a stored one still holds.
SAYS_NOTHING = {304, 408, 429}
IN_304 = {b"cache-control", b"content-location", b"etag", b"expires", b"vary"}
# The place in a page where the notice goes.
NOTICE_PLACE = b"<!-- notice -->"
NOTICE = (
    '<p class="notice degraded" role="status">This is how it was at '
    '<time datetime="{iso}">{text}</time>. The latest state cannot be shown at the '
    "moment, and nothing can be changed.</p>"
)
# Memory of one response beside its text: measured, and rounded up.
OVERHEAD_BYTES, HEADER_BYTES = 1024, 192
_directive = re.compile(r"([a-z-]+)(?:=\"?([0-9]+)\"?)?").findall


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A response with status 200, and how long it is usable for what."""

    headers: Headers
    body: bytes
    fresh_s: int
    stale_while_revalidate_s: int
    stale_if_error_s: int
    mark: Mark
    # The names of the request headers that the response depends on.
    vary: frozenset[bytes] = frozenset()
    stored_at: float = field(default_factory=time.time)
    stored: float = field(default_factory=time.monotonic)
    etag: bytes | None = None
    modified: bytes | None = None
    length_header: tuple[bytes, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        length = b"content-length", b"%d" % len(self.body)
        object.__setattr__(self, "length_header", length)

    @classmethod
    def from_response(cls, response: Response, read_at: int) -> Self | None:
        """Return what was read at the moment `read_at`, if it may be stored at all."""
        headers, body = response.headers, response.body
        if response.status != 200 or len(body) > BODY_MAX_BYTES:
            return None
        # Without its length it cannot be known to be whole.
        if (b"content-length", b"%d" % len(body)) not in headers:
            return None
        return cls.of(headers, body, mark(read_at, response.tags.split()))

    @classmethod
    def of(cls, headers: Headers, body: bytes, mark: Mark) -> Self | None:
        """Return the response if its headers allow some use of it."""
        values = dict(headers)
        cache_control = values.get(b"cache-control", b"").decode("latin-1").lower()
        rules = dict(_directive(cache_control))
        vary = vary_of(values)
        if "no-store" in rules or b"*" in vary:
            return None
        cookies = [value for name, value in headers if name == b"set-cookie"]
        # The CSRF cookie of a private page is renewed with each response.
        if not all(value.startswith(CSRF_COOKIE) for value in cookies):
            return None
        ages = {name: min(int(rules.get(name) or 0), AGE_MAX_S) for name in _AGES}
        if "public" not in rules or cookies or rules.keys() & {"private", "no-cache"}:
            ages |= {"s-maxage": 0, "stale-while-revalidate": 0}
        if not any(ages.values()):
            return None
        return cls(
            headers=[(n, v) for n, v in headers if n not in NOT_STORED],
            body=body,
            fresh_s=ages["s-maxage"],
            stale_while_revalidate_s=ages["stale-while-revalidate"],
            stale_if_error_s=ages["stale-if-error"],
            mark=mark,
            vary=vary,
            etag=values.get(b"etag"),
            modified=values.get(b"last-modified"),
        )

    @property
    def size(self) -> int:
        text = sum(len(name) + len(value) for name, value in self.headers)
        beside = HEADER_BYTES * len(self.headers) + OVERHEAD_BYTES
        return len(self.body) + text + beside

    @property
    def varies_by_token(self) -> bool:
        return b"authorization" in self.vary

    @property
    def age(self) -> float:
        return time.monotonic() - self.stored

    def is_usable_if_error(self) -> bool:
        return self.age < self.fresh_s + self.stale_if_error_s

    def answer(
        self, request: EdgeRequest, extra: Headers
    ) -> tuple[int, Headers, bytes]:
        """Return status, headers and body; 304 if the client has it already."""
        if self._is_known_to(request):
            kept = [(n, v) for n, v in self.headers if n in IN_304]
            return 304, kept + extra, b""
        return 200, [*self.headers, *extra, self.length_header], self.body

    async def send(self, request: EdgeRequest, send: Send, extra: Headers) -> None:
        await send_answer(request, send, *self.answer(request, extra))

    async def send_stale(
        self, request: EdgeRequest, send: Send, extra: Headers, why: bytes
    ) -> None:
        """Send it marked as stale, in its headers and on a page."""
        headers, body = self.headers, self.body
        if NOTICE_PLACE in body and _is_page(headers):
            then = datetime.fromtimestamp(self.stored_at, UTC)
            text = f"{then:%H:%M:%S} UTC on {then:%-d %B %Y}"
            notice = NOTICE.format(iso=then.isoformat(timespec="seconds"), text=text)
            body = body.replace(NOTICE_PLACE, notice.encode(), 1)
            headers = [(n, v) for n, v in headers if n not in IN_304]
            headers.append((b"cache-control", b"no-store"))
        elif self._is_known_to(request):
            await self.send(request, send, [*self.status(b"hit", why), *extra])
            return
        status = self.status(b"hit", why)
        length = (b"content-length", b"%d" % len(body))
        await send_answer(request, send, 200, [*headers, *status, *extra, length], body)

    def status(self, what: bytes, detail: bytes = b"") -> Headers:
        """Return Cache-Status (RFC 9211) and Age."""
        age = self.age
        value = b"%b; %b; ttl=%d" % (CACHE_NAME, what, self.fresh_s - age)
        if detail:
            value += b"; detail=%b" % detail
        return [(b"age", b"%d" % age), (b"cache-status", value)]

    def _is_known_to(self, request: EdgeRequest) -> bool:
        """Return whether the answer is 304. Raises SiteError for 412."""
        return request.is_conditional and evaluate(
            request.method,
            conditional_headers(request.headers),
            etag=self.etag.decode("latin-1") if self.etag else None,
            last_modified=self.modified.decode("latin-1") if self.modified else None,
        )


def invalidates_cached_response(status: int) -> bool:
    """Return whether a response with 200 that was stored before does not hold now."""
    return 300 <= status < 500 and status not in SAYS_NOTHING


AGE_MAX_S = 2**31
_AGES = ("s-maxage", "stale-while-revalidate", "stale-if-error")


def vary_of(values: Mapping[bytes, bytes]) -> frozenset[bytes]:
    names = values.get(b"vary", b"").lower().split(b",")
    return frozenset(name.strip() for name in names if name.strip())


def _is_page(headers: Headers) -> bool:
    return any(n == b"content-type" and v.startswith(b"text/html") for n, v in headers)


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
