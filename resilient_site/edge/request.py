"""A request as the edge sees it, and what Django's thread shares with it."""

import asyncio
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from django.conf import settings
from django.http import HttpRequest, parse_cookie

from resilient_site.accounts.verified_tokens import credentials, verified_tokens
from resilient_site.api import conditional
from resilient_site.edge.asgi_types import Message
from resilient_site.edge.policy import ViewPolicy, policy_at
from resilient_site.observability.request_id import HEADERS as REQUEST_ID_HEADERS
from resilient_site.ratelimit.addresses import normalize_address
from resilient_site.resilience.cache_control import Part

if TYPE_CHECKING:
    from resilient_site.edge.streaming import Stream, Wait

SAFE = ("GET", "HEAD")
SESSION_COOKIE = f"{settings.SESSION_COOKIE_NAME}=".encode()
CSRF_COOKIE = f"{settings.CSRF_COOKIE_NAME}=".encode()
# The cookies that views read. All others, such as those of web analytics, and the one
# for forms (a response with a form of its own sets it anew) say nothing about a client.
# Django strips names of Unicode's spaces, too: any byte of a non-ASCII one counts.
identifies_client = re.compile(
    rb"(?:^|[;,\s\x1c-\x1f\x80-\xff])(?:%b|messages)[\s\x1c-\x1f\x80-\xff]*="
    % re.escape(settings.SESSION_COOKIE_NAME.encode())
).search
_seconds = re.compile(rb"([0-9]{1,5}(?:\.[0-9]{1,6})?)(ms|s)?").fullmatch
LENGTH_DIGITS = 16
TIMEOUT_HEADER = b"x-request-timeout"
SCOPE_KEY = "resilient_site.context"

# Headers that a request for a shared response keeps.
SHARED_REQUEST_HEADERS = {b"host", *REQUEST_ID_HEADERS}
# What a client says of one request, and not of itself.
OF_ONE_REQUEST = {
    b"content-length", b"content-type", b"transfer-encoding", b"expect",
    b"idempotency-key", b"if-match", b"if-none-match", b"if-modified-since",
    b"if-unmodified-since", b"if-range", b"range", b"content-encoding",
}  # fmt: skip
# How its body is sent.
OF_TRANSFER = {b"content-length", b"transfer-encoding", b"content-encoding"}
_no_ascii = re.compile(rb"[^\x00-\x7f]")


class ClientGone(Exception):
    """The client has closed the connection."""


class Priority(IntEnum):
    """Priority class in an overload: the lowest number is served first."""

    AUTHENTICATED_WRITE = 0
    AUTHENTICATED_READ = 1
    ANONYMOUS_READ = 2
    ANONYMOUS_WRITE = 3
    HEAVY = 4


def normalize(scope: Message) -> None:
    """Remove from a request what the edge and Django would read differently.

    WSGI takes `_` in the name of a header for `-`, joins cookies by a comma, and knows
    no query that is not ASCII.
    """
    headers = scope["headers"]
    names = dict(headers)
    if len(names) < len(headers) or b"_" in b" ".join(names):
        headers = [header for header in headers if b"_" not in header[0]]
        cookies = [value for name, value in headers if name == b"cookie"]
        if len(cookies) > 1:
            headers = [header for header in headers if header[0] != b"cookie"]
            headers.append((b"cookie", b"; ".join(cookies)))
        scope["headers"] = headers
    if not scope["query_string"].isascii():
        scope["query_string"] = _no_ascii.sub(
            lambda found: b"%%%02X" % ord(found[0]), scope["query_string"]
        )


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the values of a repeated header as one (RFC 9110, section 5.3)."""
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined


def content_length(digits: bytes) -> float:
    """Return the bytes of a body; infinite if that is no number of a sensible size.

    Python reads no number of thousands of digits.
    """
    is_number = digits.isdigit() and len(digits) < LENGTH_DIGITS
    return int(digits) if is_number else math.inf


def client_of_user(user_id: object) -> str:
    return f"user {user_id}"


class EdgeRequest:
    def __init__(self, scope: Message) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        if len(self.headers) < len(scope["headers"]):
            self.headers = _joined(scope["headers"])
        self.is_safe = self.method in SAFE
        cookie = self.headers.get(b"cookie")
        self.has_authorization = b"authorization" in self.headers
        self.is_anonymous = not self.has_authorization and (
            cookie is None or identifies_client(cookie) is None
        )
        self.has_cookie = cookie is not None
        length = self.headers.get(b"content-length", b"0")
        self.has_body = length != b"0" or b"transfer-encoding" in self.headers

    @cached_property
    def policy(self) -> ViewPolicy:
        return policy_at(self.path, self.method)

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing: also a POST that reads a batch."""
        return self.is_safe or self.policy.batch is not None

    @cached_property
    def session_key(self) -> str:
        # As Django reads it.
        cookie = self.headers.get(b"cookie", b"").decode(errors="replace")
        return parse_cookie(cookie).get(settings.SESSION_COOKIE_NAME, "")

    @cached_property
    def credentials(self) -> tuple[str, ...]:
        """Digests of the token and the session that it comes with.

        Both count: pages go by the session, whatever token a client sends with it.
        """
        authorization = self.headers.get(b"authorization", b"")
        return credentials(authorization, self.session_key)

    @cached_property
    def is_recognized(self) -> bool:
        """Whether the client was authenticated when Django last answered it."""
        return not self.is_anonymous and any(
            map(verified_tokens().is_recognized, self.credentials)
        )

    @cached_property
    def client(self) -> str:
        """Whose quotas count: the user's when last verified, else the address's."""
        for credential in () if self.is_anonymous else self.credentials:
            if user_id := verified_tokens().recognized_user_id(credential):
                return client_of_user(user_id)
        address = (self.scope.get("client") or [""])[0]
        return normalize_address(address) or address

    def set_content_length(self, size: int) -> None:
        """State the size of the body as it was received and unpacked."""
        length = (b"content-length", b"%d" % size)
        headers = [h for h in self.scope["headers"] if h[0] not in OF_TRANSFER]
        self.scope["headers"] = [*headers, length]
        self.headers = dict(self.scope["headers"])
        if len(self.headers) < len(self.scope["headers"]):
            self.headers = _joined(self.scope["headers"])

    @property
    def is_conditional(self) -> bool:
        return not conditional.HEADERS.isdisjoint(self.headers)

    def as_shared(self, query: str, headers: Iterable[tuple[bytes, bytes]]) -> Self:
        """Return the request with `headers`, and nothing else that its client chose."""
        kept = [(n, v) for n, v in self.headers.items() if n in SHARED_REQUEST_HEADERS]
        kept += [(name, value) for name, value in headers if value]
        changes = {"method": "GET", "query_string": query.encode(), "headers": kept}
        return type(self)({**self.scope, **changes})

    def as_shared_post(
        self, body: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> Self:
        """Return the request as a POST of this JSON, of no client in particular."""
        own = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        asked = self.as_shared("", [*headers, *own])
        return type(self)({**asked.scope, "method": "POST"})

    def as_internal_get(self, target: str) -> Self:
        """Return a GET of `target`, a path with its query, by the same client."""
        path, _, query = target.partition("?")
        headers = [
            (name, value)
            for name, value in self.scope["headers"]
            if name not in OF_ONE_REQUEST
        ]
        changes = {
            "method": "GET",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": headers,
        }
        internal = type(self)({**self.scope, **changes})
        internal.priority = self.priority  # it keeps its place in the queue
        return internal

    @cached_property
    def priority(self) -> Priority:
        if self.policy.is_heavy:
            return Priority.HEAVY
        if self.is_recognized:
            read, write = Priority.AUTHENTICATED_READ, Priority.AUTHENTICATED_WRITE
        else:
            read, write = Priority.ANONYMOUS_READ, Priority.ANONYMOUS_WRITE
        return read if self.is_read else write

    @cached_property
    def deadline(self) -> float:
        """A time of the monotonic clock."""
        return time.monotonic() + self.timeout_s

    @property
    def timeout_s(self) -> float:
        """The limit of the site, or the lower one that the client asks for."""
        name = "read" if self.is_read else "write"
        granted: float = settings.DEADLINES_S["heavy" if self.policy.is_heavy else name]
        asked = _seconds(self.headers.get(TIMEOUT_HEADER, b""))
        if asked is None:
            return granted
        seconds = float(asked[1]) / (1000 if asked[2] == b"ms" else 1)
        return min(granted, seconds)


@dataclass(frozen=True)
class Identity:
    """The client of a response, and when its session or token expires."""

    user_id: object
    expires_at: float


class RequestContext:
    """What the event loop and Django's thread share about one request.

    A shared response (`is_shared`) is neither streamed nor waited for.
    """

    def __init__(self, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        # Whose quotas count; known better once Django has found out the identity.
        self.client = ""
        self.client_gone = Event()
        # Done when the client has gone, for the event loop.
        self.gone: asyncio.Future[Any] | None = None
        self.was_admitted = False
        self.is_streamed_by_thread = False
        self.identity: Identity | None = None
        # There is no user to the session that the request names.
        self.has_dead_session = False
        # The moment of which the replica is that was read; 0: it was the primary.
        self.as_of = 0
        # The primary is away, so that there may be later changes.
        self.is_stale = False
        self.continuation: Stream | Wait | None = None
        # The results of a batch, each to be stored by itself.
        self.parts: Sequence[Part] = ()
        # From here on Django gets the internal GET that ends a wait.
        self.is_after_wait = False


def context_of(request: HttpRequest) -> RequestContext | None:
    """Return the context of a request that came through the edge."""
    # In the ASGI scope, where no header of a client can get.
    context: RequestContext | None
    context = request.META.get("asgi.scope", {}).get(SCOPE_KEY)
    return context


def is_after_wait(request: HttpRequest) -> bool:
    """Return whether this is the internal GET that ends a wait."""
    context = context_of(request)
    return context is not None and context.is_after_wait
