"""Copies of answers: what they say, how old they are, who may be shown them."""

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
from resilient_site.edge.request import CSRF_COOKIE, Incoming
from resilient_site.edge.wsgi_bridge import Response

CACHE_NAME = b"resilient-site"
BODY_MAX_BYTES = 1024 * 1024
# Of one answer to one client (RFC 9110, section 7.6.1, and our own).
NOT_KEPT = {
    b"connection", b"keep-alive", b"date", b"age", b"cache-status", b"cache-tag",
    b"x-request-id", b"ratelimit", b"ratelimit-policy", b"retry-after", b"set-cookie",
    b"transfer-encoding", b"content-length",
}  # fmt: skip
# Responses that say nothing about whether a stored one still holds.
SAYS_NOTHING = {304, 408, 429}
IN_304 = {b"cache-control", b"content-location", b"etag", b"expires", b"vary"}
# Where a page has room for a notice.
NOTICE_PLACE = b"<!-- notice -->"
NOTICE = (
    '<p class="notice degraded" role="status">This is how it was at '
    '<time datetime="{iso}">{text}</time>. The latest state cannot be shown at the '
    "moment, and nothing can be changed.</p>"
)
# What one copy takes beside its text: measured, and rounded up.
OVERHEAD_BYTES, HEADER_BYTES = 1024, 192
_directive = re.compile(r"([a-z-]+)(?:=\"?([0-9]+)\"?)?").findall


@dataclass(frozen=True, slots=True)
class Copy:
    """One answer with status 200, and until when it is good for what."""

    headers: Headers
    body: bytes
    fresh_s: int
    stale_while_revalidate_s: int
    stale_if_error_s: int
    mark: Mark
    # The names of the headers that made a difference.
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
        """Return a copy if the answer says that it may be kept for some use."""
        told = dict(headers)
        said = told.get(b"cache-control", b"").decode("latin-1").lower()
        rules = dict(_directive(said))
        vary = vary_of(told)
        if "no-store" in rules or b"*" in vary:
            return None
        cookies = [value for name, value in headers if name == b"set-cookie"]
        # Of a page for one person, his form's own is renewed with each answer.
        if not all(value.startswith(CSRF_COOKIE) for value in cookies):
            return None
        ages = {name: min(int(rules.get(name) or 0), AGE_MAX_S) for name in _AGES}
        if "public" not in rules or cookies or rules.keys() & {"private", "no-cache"}:
            ages |= {"s-maxage": 0, "stale-while-revalidate": 0}
        if not any(ages.values()):
            return None
        return cls(
            headers=[(n, v) for n, v in headers if n not in NOT_KEPT],
            body=body,
            fresh_s=ages["s-maxage"],
            stale_while_revalidate_s=ages["stale-while-revalidate"],
            stale_if_error_s=ages["stale-if-error"],
            mark=mark,
            vary=vary,
            etag=told.get(b"etag"),
            modified=told.get(b"last-modified"),
        )

    @property
    def size(self) -> int:
        told = sum(len(name) + len(value) for name, value in self.headers)
        beside = HEADER_BYTES * len(self.headers) + OVERHEAD_BYTES
        return len(self.body) + told + beside

    @property
    def varies_by_token(self) -> bool:
        return b"authorization" in self.vary

    @property
    def age(self) -> float:
        return time.monotonic() - self.stored

    def is_for_want_of_better(self) -> bool:
        return self.age < self.fresh_s + self.stale_if_error_s

    def answer(self, request: Incoming, extra: Headers) -> tuple[int, Headers, bytes]:
        """Return it as it is, or 304 if the client has it already."""
        if self._is_known_to(request):
            kept = [(n, v) for n, v in self.headers if n in IN_304]
            return 304, kept + extra, b""
        return 200, [*self.headers, *extra, self.length_header], self.body

    async def send(self, request: Incoming, send: Send, extra: Headers) -> None:
        await send_answer(request, send, *self.answer(request, extra))

    async def send_stale(
        self, request: Incoming, send: Send, extra: Headers, why: bytes
    ) -> None:
        """Answer with it, and say that it is old: to programs and on pages."""
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
        """Say how this answer came about (RFC 9211) and how old it is."""
        age = self.age
        value = b"%b; %b; ttl=%d" % (CACHE_NAME, what, self.fresh_s - age)
        if detail:
            value += b"; detail=%b" % detail
        return [(b"age", b"%d" % age), (b"cache-status", value)]

    def _is_known_to(self, request: Incoming) -> bool:
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


def vary_of(told: Mapping[bytes, bytes]) -> frozenset[bytes]:
    names = told.get(b"vary", b"").lower().split(b",")
    return frozenset(name.strip() for name in names if name.strip())


def _is_page(headers: Headers) -> bool:
    return any(n == b"content-type" and v.startswith(b"text/html") for n, v in headers)


def headers_of(response: HttpResponse) -> Headers:
    """Return the headers of an answer of Django's as ASGI has them."""
    return [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]


async def send_answer(
    request: Incoming,
    send: Send,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    content = b"" if request.method == "HEAD" else body
    await send({"type": "http.response.body", "body": content})
