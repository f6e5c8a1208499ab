"""Copies of answers: what they say, how old they are, who may be shown them."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

from resilient_site.edge.incoming import Incoming
from resilient_site.later import Send
from resilient_site.resilience.generations import Mark

type Headers = list[tuple[bytes, bytes]]

CACHE_NAME = b"resilient-site"
BODY_MAX_BYTES = 1024 * 1024
# Of one answer to one client (RFC 9110, section 7.6.1, and our own).
NOT_KEPT = {
    b"connection", b"keep-alive", b"date", b"age", b"cache-status", b"cache-tag",
    b"x-request-id", b"ratelimit", b"transfer-encoding", b"content-length",
}  # fmt: skip
IN_304 = {b"cache-control", b"content-location", b"etag", b"expires", b"vary"}
# Where a page has room for a notice.
NOTICE_PLACE = b"<!-- notice -->"
NOTICE = (
    '<p class="notice degraded" role="status">This is how it was at '
    '<time datetime="{iso}">{text}</time>. The latest state cannot be shown at the '
    "moment, and nothing can be changed.</p>"
)
_directive = re.compile(r"([a-z-]+)(?:=\"?([0-9]+)\"?)?").findall


@dataclass(frozen=True)
class Copy:
    """One answer with status 200, and until when it is good for what."""

    headers: Headers
    body: bytes
    fresh_s: int
    stale_while_revalidate_s: int
    stale_if_error_s: int
    mark: Mark
    # For everybody, or for those without a token only.
    varies_by_token: bool = False
    stored_at: float = field(default_factory=time.time)
    stored: float = field(default_factory=time.monotonic)
    etag: bytes | None = None
    modified: bytes | None = None

    @classmethod
    def of(cls, headers: Headers, body: bytes, mark: Mark) -> Self | None:
        """Return a copy if the answer says that it may be kept for some use."""
        told = dict(headers)
        rules = dict(_directive(told.get(b"cache-control", b"").decode().lower()))
        if "no-store" in rules or b"set-cookie" in told:
            return None
        is_public = "public" in rules
        ages = {name: int(rules.get(name) or 0) for name in _AGES}
        if not is_public:
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
            varies_by_token=b"authorization" in told.get(b"vary", b"").lower(),
            etag=told.get(b"etag"),
            modified=told.get(b"last-modified"),
        )

    @property
    def size(self) -> int:
        return len(self.body) + 1024

    @property
    def age(self) -> float:
        return time.monotonic() - self.stored

    def renewed(self) -> Self:
        return replace(self, stored=time.monotonic(), stored_at=time.time())

    def is_for_want_of_better(self) -> bool:
        return self.age < self.fresh_s + self.stale_if_error_s

    async def send(self, request: Incoming, send: Send, extra: Headers) -> None:
        """Answer with it as it is, or with 304 if the client has it already."""
        status, body = 200, self.body
        headers = [*self.headers, *extra]
        if self._is_known_to(request):
            status, body = 304, b""
            headers = [(n, v) for n, v in self.headers if n in IN_304] + extra
        else:
            headers.append((b"content-length", b"%d" % len(body)))
        await send_answer(request, send, status, headers, body)

    async def send_stale(
        self, request: Incoming, send: Send, extra: Headers, why: bytes
    ) -> None:
        """Answer with it, and say that it is old: to programs and on pages."""
        headers, body = self.headers, self.body
        if NOTICE_PLACE in body:
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
        """Evaluate If-None-Match, or If-Modified-Since (RFC 9110, section 13.1)."""
        if tags := request.headers.get(b"if-none-match"):
            known = [tag.strip().removeprefix(b"W/") for tag in tags.split(b",")]
            return b"*" in known or (
                self.etag is not None and self.etag.removeprefix(b"W/") in known
            )
        since = request.headers.get(b"if-modified-since")
        if since is None or self.modified is None:
            return False
        try:
            mine, theirs = map(_moment, (self.modified, since))
            return mine <= theirs
        except (ValueError, TypeError):
            return False


_AGES = ("s-maxage", "stale-while-revalidate", "stale-if-error")


def _moment(header: bytes) -> datetime:
    return parsedate_to_datetime(header.decode("latin-1"))


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
