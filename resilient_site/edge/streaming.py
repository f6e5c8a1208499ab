"""Streaming and long poll: responses that continue when Django has returned its thread.

A view returns a complete response, as for any server. In its attribute `continuation`
it may say how the edge continues, with no thread and no database connection, for as
long as that takes: with a Stream in place of the content, or with a Wait for an event,
after which an internal GET of another address is the response. Where too many responses
continue already, or on another server, the response is sent as it stands. Not handled:
what is under way when the process stops; streams end, waits are over, and clients ask
again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from resilient_site.edge.admission import Quota
from resilient_site.edge.asgi_types import Send
from resilient_site.edge.request import RequestContext

logger = logging.getLogger(__name__)

# Then the client has to ask again, and is authenticated again.
STREAM_MAX_S = 3600
# A comment between events. Well below the time after which proxies close a connection.
KEEP_ALIVE = b":\n\n"
KEEP_ALIVE_S = 15.0


@dataclass(frozen=True)
class Stream:
    """Send these pieces in place of the content, until they or the client end."""

    make_pieces: Callable[[], AsyncGenerator[bytes]]


@dataclass(frozen=True)
class Wait:
    """Send nothing until `until` is done or the time is up; then GET `then`.

    It is the same client's GET, for which `request.is_after_wait` is true; it
    is not counted by rate limits, and may not wait again. If it fails, the first
    response is sent. `if_left` is called, in a thread, if the client is not there to
    wait, or cannot.
    """

    until: Callable[[], Coroutine[Any, Any, object]]
    timeout_s: float
    then: str
    if_left: Callable[[], object] = lambda: None


def event_stream(
    first: bytes, events: Callable[[], AsyncGenerator[bytes]] | None
) -> HttpResponse:
    """Return server-sent events: `first`, or on the edge `events` in its place."""
    response = HttpResponse(first, content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    if events:
        response.continuation = Stream(events)  # type: ignore[attr-defined]
    return response


async def is_set_within(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for the event; return False after the timeout."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


def one_per_loop[T](make: Callable[[asyncio.AbstractEventLoop], T]) -> Callable[[], T]:
    """Return a function that returns the object of the running event loop."""
    made: dict[asyncio.AbstractEventLoop, T] = {}

    def of_running_loop() -> T:
        loop = asyncio.get_running_loop()
        if loop not in made:
            made.clear()
            made[loop] = make(loop)
        return made[loop]

    return of_running_loop


class InFlightResponses:
    """The responses of this process that continue without a thread."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self.is_ending = False

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
        """Run `work` until it ends, the client leaves, or the time is up."""
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
            logger.error("A response could not continue.", exc_info=error)


in_flight_responses = InFlightResponses()


def record_response(
    response: HttpResponseBase, context: RequestContext, streams: Quota
) -> None:
    """Record how this response continues, before it is begun."""
    if context.is_shared:
        return
    continuation = getattr(response, "continuation", None)
    if isinstance(continuation, Wait) and context.is_after_wait:
        continuation = None
    has_room = streams.has_room(context.client)
    if continuation and not has_room:
        # Or who has more than its share would keep the connections as idle ones.
        response["Connection"] = "close"
    if not has_room or in_flight_responses.is_ending:
        if isinstance(continuation, Wait):
            continuation.if_left()
        continuation = None
    if isinstance(continuation, Stream):
        del response.headers["Content-Length"]
    context.continuation = continuation
    context.is_streamed_by_thread = response.streaming


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
