"""Answers that go on in asyncio when Django has given its thread back.

A view answers in full, as for any server. In an attribute `later` of its response it
may say how our own server goes on, for as long as that takes, with no thread and no
database connection: by a Stream in place of the content, or by a Wait, after which
the same request is put to Django once more. Where too many answers go on already, or
on another server, the response is sent as it stands.
"""

import asyncio
import logging
import resource
import sys
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    MutableMapping,
)
from contextlib import aclosing
from dataclasses import dataclass
from threading import Event
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase

logger = logging.getLogger(__name__)

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Headers = list[tuple[bytes, bytes]]
type Send = Callable[[Message], Awaitable[None]]

# Then the client has to ask again, and is asked again who he is.
STREAM_MAX_S = 3600
SCOPE_KEY = "resilient_site.exchange"


@dataclass(frozen=True)
class Stream:
    """Send these pieces in place of the content, until they end or the client goes."""

    make_pieces: Callable[[], AsyncGenerator[bytes]]


@dataclass(frozen=True)
class Wait:
    """Send nothing until `until` is done or the time is up; then ask Django again.

    For the view it is over when `waited_for` returns the token; a second Wait is not
    granted.
    """

    until: Callable[[], Coroutine[Any, Any, object]]
    timeout_s: float
    token: str


def waited_for(request: HttpRequest) -> str | None:
    """Return the token of the Wait that this request has behind it, if any."""
    # In the ASGI scope, where no header of a client can get.
    context: RequestContext | None = request.META.get("asgi.scope", {}).get(SCOPE_KEY)
    return context.waited_for if context else None


@dataclass(frozen=True)
class Identity:
    """Who was answered: the tag that changes with him, and until when he is it."""

    tag: str
    expires_at: float


class RequestContext:
    """What the event loop and the thread of one request share.

    In a shared response (`is_shared`) nothing is streamed or waited for.
    """

    def __init__(self, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self.client_gone = Event()
        # Done when the client has gone, for the event loop.
        self.gone: asyncio.Future[Any] | None = None
        self.is_streamed_by_thread = False
        self.later: Stream | Wait | None = None
        self.before_wait: HttpResponseBase | None = None
        self.waited_for: str | None = None
        self.identity: Identity | None = None
        self.was_admitted = False

    def note(self, response: HttpResponseBase) -> HttpResponseBase:
        if self.is_shared:
            return response
        before = self.before_wait
        if before and before.status_code < 500 <= response.status_code:
            # What was promised is still true, and "nothing was changed" is not.
            response.close()
            return before
        later = getattr(response, "later", None)
        if isinstance(later, Wait) and self.waited_for is not None:
            later = None
        self.later = later if held.has_room() else None
        if isinstance(self.later, Wait):
            self.before_wait = response
        if isinstance(self.later, Stream):
            del response.headers["Content-Length"]
        self.is_streamed_by_thread = response.streaming
        return response

    def take(self) -> Stream | Wait | None:
        """Return what is left to do later."""
        later, self.later = self.later, None
        return later


def most_held() -> int:
    """Half of the connections that this process may have; the rest is for others."""
    files: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else files // 2


class Held:
    """The answers that go on in this process."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self.is_ending = False

    def has_room(self) -> bool:
        return len(self.tasks) < most_held() and not self.is_ending

    def end(self) -> None:
        """End them all, as this process stops; their clients will ask again."""
        self.is_ending = True
        for task in self.tasks:
            task.cancel()

    async def run(
        self,
        work: Coroutine[Any, Any, object],
        gone: asyncio.Future[Any],
        timeout_s: float,
    ) -> None:
        """Do `work` until it is done, the client gone, the time up or all is to end."""
        task = asyncio.create_task(work)
        if self.is_ending:
            task.cancel()
        self.tasks.add(task)
        try:
            await asyncio.wait(
                {task, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            task.cancel()
            await asyncio.wait({task})
            self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("An answer could not go on.", exc_info=error)


held = Held()


async def send_pieces(stream: Stream, send: Send, context: RequestContext) -> None:
    async with aclosing(stream.make_pieces()) as pieces:
        async for piece in pieces:
            try:
                await send(
                    {"type": "http.response.body", "body": piece, "more_body": True}
                )
            except asyncio.CancelledError:
                context.client_gone.set()  # it would not read the end either
                raise
            if context.client_gone.is_set():
                return
