"""A request as the edge sees it: who asks for what, how urgent it is, until when."""

import re
import time
from enum import IntEnum
from functools import cached_property
from hashlib import blake2b
from typing import Self

from django.conf import settings

from resilient_site.later import Message

SAFE = ("GET", "HEAD")
SESSION_COOKIE = f"{settings.SESSION_COOKIE_NAME}=".encode()
# Says nothing about who it is.
CSRF_ONLY = re.compile(rb"%b=[^;\s]*" % settings.CSRF_COOKIE_NAME.encode()).fullmatch
_seconds = re.compile(rb"([0-9]{1,5}(?:\.[0-9]{1,6})?)(ms|s)?").fullmatch
TIMEOUT_HEADER = b"x-request-timeout"

OF_ONE_CLIENT = {
    b"authorization", b"cookie", b"if-match", b"if-none-match", b"if-modified-since",
    b"if-unmodified-since", b"if-range", b"range", b"referer", b"prefer",
    TIMEOUT_HEADER,
}  # fmt: skip

# What takes long, or keeps a thread for long.
_is_heavy = re.compile(
    "/api/v1/(items/export|heavy_computation|jobs/[^/]+/result)"
    "|/items/import/|/jobs/[^/]+/files/"
).match


class Kind(IntEnum):
    """What is answered first when there is too much to do: the lowest."""

    SIGNED_WRITE = 0
    SIGNED_READ = 1
    READ = 2
    WRITE = 3
    HEAVY = 4


class Incoming:
    def __init__(self, scope: Message) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.is_safe = self.method in SAFE
        cookie = self.headers.get(b"cookie")
        self.has_authorization = b"authorization" in self.headers
        self.is_anonymous = not self.has_authorization and (
            cookie is None or CSRF_ONLY(cookie) is not None
        )
        self.has_cookie = cookie is not None

    @cached_property
    def credential(self) -> str | None:
        """What the client says he is known by, as a digest; None if he says nothing."""
        told = self.headers.get(b"authorization")
        if told is None:
            for part in self.headers.get(b"cookie", b"").split(b";"):
                if part.strip().startswith(SESSION_COOKIE):
                    told = part.strip()
        return blake2b(told, digest_size=20).hexdigest() if told else None

    def as_shared(self, query: str) -> Self:
        """The same request without anything that is its client's own."""
        kept = [(n, v) for n, v in self.scope["headers"] if n not in OF_ONE_CLIENT]
        changes = {"method": "GET", "query_string": query.encode(), "headers": kept}
        return type(self)({**self.scope, **changes})

    def kind(self, is_known: bool) -> Kind:
        if _is_heavy(self.path):
            return Kind.HEAVY
        if self.is_safe:
            return Kind.SIGNED_READ if is_known else Kind.READ
        return Kind.SIGNED_WRITE if is_known else Kind.WRITE

    @cached_property
    def deadline(self) -> float:
        """A moment of the monotonic clock."""
        return time.monotonic() + self._timeout_s()

    def begin_anew(self) -> None:
        """Give it its time once more: what it has waited for was not ours."""
        self.deadline = time.monotonic() + self._timeout_s()

    def _timeout_s(self) -> float:
        """What the site grants, or less if the client asks for less."""
        kind = self.kind(False)
        name = {Kind.HEAVY: "heavy", Kind.READ: "read"}.get(kind, "write")
        granted: float = settings.DEADLINES_S[name]
        asked = _seconds(self.headers.get(TIMEOUT_HEADER, b""))
        if asked is None:
            return granted
        seconds = float(asked[1]) / (1000 if asked[2] == b"ms" else 1)
        return min(granted, seconds)
