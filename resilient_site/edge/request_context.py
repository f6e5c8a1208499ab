"""Request context: what the event loop and Django's thread share about one request."""

import asyncio
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest

if TYPE_CHECKING:
    from resilient_site.edge.streaming import Stream, Wait

SCOPE_KEY = "resilient_site.context"


@dataclass(frozen=True)
class Identity:
    """The client of a response: a tag that changes with it, and when it expires."""

    tag: str
    expires_at: float


class RequestContext:
    """A shared response (`is_shared`) is neither streamed nor waited for."""

    def __init__(self, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self.client_gone = Event()
        # Done when the client has gone, for the event loop.
        self.gone: asyncio.Future[Any] | None = None
        self.was_admitted = False
        self.is_streamed_by_thread = False
        self.identity: Identity | None = None
        self.continuation: Stream | Wait | None = None
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
