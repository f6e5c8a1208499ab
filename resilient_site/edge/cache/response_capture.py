"""Django's answers on their way: collected, or passed on with an eye on them."""

from dataclasses import dataclass, field

from resilient_site.edge.cache.cached_response import (
    BODY_MAX_BYTES,
    Copy,
    Headers,
    send_answer,
)
from resilient_site.edge.cache.invalidation import mark, now
from resilient_site.edge.request import Incoming
from resilient_site.edge.streaming import Message, Send

TAGS = b"cache-tag"
# Say nothing about whether what was known before still holds.
SAYS_NOTHING = {304, 408, 429}


@dataclass
class Collected:
    """An answer that was taken in whole."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.pieces.append(message.get("body", b""))

    def copy(self, at: int) -> Copy | None:
        """Return it as a copy of what was read at the moment `at`, if it may be one."""
        body = b"".join(self.pieces)
        told = dict(self.headers)
        # Without its length nobody can tell whether it is whole.
        length = told.get(b"content-length")
        if self.status != 200 or length != b"%d" % len(body):
            return None
        if len(body) > BODY_MAX_BYTES:
            return None
        tags = told.get(TAGS, b"").decode("latin-1").split()
        return Copy.of(self.headers, body, mark(at, tags))

    async def send(self, request: Incoming, send: Send, extra: Headers) -> None:
        headers = [*without_tags(self.headers), *extra]
        await send_answer(request, send, self.status, headers, b"".join(self.pieces))


class Tap:
    """Passes an answer on, and collects it if it may be kept; holds failures back."""

    def __init__(self, request: Incoming, send: Send) -> None:
        self.began = now()
        self.status = 0
        self.collected: Collected | None = None
        self.failure: Collected | None = None
        self._request, self._send = request, send
        self._size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= 500:
                self.failure = Collected()
            elif self._request.method == "GET" and _may_be_kept(message["headers"]):
                self.collected = Collected()
        taken = self.failure or self.collected
        if taken is not None:
            self._size += len(message.get("body", b""))
            await taken.take(message)
            if self._size > BODY_MAX_BYTES:
                self.collected = None
        if self.failure is None:
            await self._send(self._as_sent(message))

    def _as_sent(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            return {**message, "headers": without_tags(message["headers"])}
        return message

    def copy(self) -> Copy | None:
        return self.collected.copy(self.began) if self.collected else None


def says_it_is_void(status: int) -> bool:
    """Tell whether what was answered before with 200 does not hold any more."""
    return 300 <= status < 500 and status not in SAYS_NOTHING


def _may_be_kept(headers: Headers) -> bool:
    return any(n == b"cache-control" and b"stale-if-error" in v for n, v in headers)


def without_tags(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name != TAGS]
