"""Change stream: server-sent events, and requests that wait for the next change.

All streams of a web process share one reader in a thread of its own, which runs while
there are any. It notices at once what has changed on this machine, or was announced by
another one, and polls for the rest twice a second. The last changes are buffered, up
to a number of bytes; a stream that has not sent what was dropped ends, and its client
reconnects with the id of the last event. While the database fails or hangs, streams
stay open, kept alive by comments.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile

import orjson
from django.http import HttpResponse

from items.changes import feed
from items.changes.feed import START, Position
from items.models import ItemChange
from resilient_site.edge.cache.invalidation import CHANGES, invalidations, slot_of
from resilient_site.edge.streaming import Stream, Wait
from resilient_site.resilience.poller import Poller

POLL_S = 0.05
READ_EVERY_S = 0.5
# Well below the time after which proxies close an idle connection.
KEEP_ALIVE_S = 15.0
WAIT_MAX_S = 60

# What the reader starts with, for requests that read the database just before.
INITIAL_EVENTS = 100
READ_BATCH = 500
BUFFER_BYTES = 4 * 1024 * 1024
SEND_BATCH = 100
# A client that is further behind gets so many, and reconnects.
PAGE = 1_000

RETRY = b"retry: 2000\n\n"
RETRY_AT_ONCE = b"retry: 100\n\n"
KEEP_ALIVE = b":\n\n"


@dataclass(frozen=True)
class ChangeEvent:
    """A change as a server-sent event."""

    position: Position
    frame: bytes


def encode_event(change: ItemChange) -> ChangeEvent:
    position = feed.position_of(change)
    data = orjson.dumps(feed.as_json(change), option=orjson.OPT_UTC_Z)
    head = f"event: change\nid: {feed.cursor_of(position)}\ndata: ".encode()
    return ChangeEvent(position, head + data + b"\n\n")


class EventBuffer:
    """The last events, bounded by bytes, and the position after which they start.

    The newest one is kept whatever its size.
    """

    def __init__(self, events: Iterable[ChangeEvent], start: Position) -> None:
        self.start = self.end = start
        self._events: deque[ChangeEvent] = deque()
        self._size = 0
        self.extend(events)

    def extend(self, events: Iterable[ChangeEvent]) -> None:
        for event in events:
            self._events.append(event)
            self._size += len(event.frame)
            self.end = event.position
        while self._size > BUFFER_BYTES and len(self._events) > 1:
            dropped = self._events.popleft()
            self._size -= len(dropped.frame)
            self.start = dropped.position

    def after(self, position: Position) -> list[ChangeEvent]:
        newer = takewhile(lambda e: e.position > position, reversed(self._events))
        return list(newer)[::-1]


class ChangeStream:
    """The change feed, shared by all requests of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.buffer: EventBuffer | None = None  # changed only in the event loop
        self._poller = Poller[asyncio.Event](loop, "Changes", POLL_S, self._reader)

    async def events(self, first: bytes, position: Position) -> AsyncGenerator[bytes]:
        """Yield `first`, then the events after `position`, unless some were dropped."""
        with self._subscribe() as changed:
            yield first
            while True:
                changed.clear()
                if self.buffer and position < self.buffer.start:
                    return
                newer = self.buffer.after(position)[:SEND_BATCH] if self.buffer else []
                if newer:
                    position = newer[-1].position
                    yield b"".join(event.frame for event in newer)
                elif not await _wait_until_set(changed, KEEP_ALIVE_S):
                    yield KEEP_ALIVE

    async def wait_for_change(self, position: Position) -> None:
        """Return when there is a change after `position`."""
        with self._subscribe() as changed:
            while self.buffer is None or self.buffer.end <= position:
                changed.clear()
                await changed.wait()

    def _subscribe(self) -> AbstractContextManager[asyncio.Event]:
        return self._poller.subscribed(asyncio.Event())

    def _reader(self) -> Callable[[], None]:
        self.buffer = None
        return Reader(self).poll

    def start_buffer(self, events: list[ChangeEvent], start: Position) -> None:
        self.buffer = EventBuffer(events, start)
        self._notify()

    def extend_buffer(self, events: list[ChangeEvent]) -> None:
        if self.buffer:
            self.buffer.extend(events)
            self._notify()

    def _notify(self) -> None:
        for changed in self._poller.subscribers():
            changed.set()


class Reader:
    """Reads new changes into the buffer, in a thread."""

    def __init__(self, stream: ChangeStream) -> None:
        self._stream = stream
        self._position: Position | None = None
        self._seen = 0
        self._read_at = 0.0

    def poll(self) -> None:
        seen = invalidations.slots[slot_of(CHANGES)]
        if seen == self._seen and time.monotonic() < self._read_at:
            return
        if self._position is None:
            self._read_last()
        else:
            self._read_after(self._position)
        # Only after success, so that a failed read is repeated.
        self._seen, self._read_at = seen, time.monotonic() + READ_EVERY_S

    def _read_last(self) -> None:
        events = [encode_event(one) for one in feed.last_changes(INITIAL_EVENTS)]
        start = events[0].position if len(events) == INITIAL_EVENTS else START
        self._position = events[-1].position if events else START
        self._call_in_loop(self._stream.start_buffer, events, start)

    def _read_after(self, position: Position) -> None:
        is_full = True
        while is_full:
            changes = feed.changes_after(position, READ_BATCH)
            is_full = len(changes) == READ_BATCH
            if changes:
                self._position = position = feed.position_of(changes[-1])
                events = [encode_event(change) for change in changes]
                self._call_in_loop(self._stream.extend_buffer, events)

    def _call_in_loop(self, function: Callable[..., None], *args: object) -> None:
        self._stream.loop.call_soon_threadsafe(function, *args)


async def _wait_until_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


_stream: ChangeStream | None = None


def running_stream() -> ChangeStream:
    """Return the stream of the running event loop, created at its first use."""
    global _stream
    loop = asyncio.get_running_loop()
    if _stream is None or _stream.loop is not loop:
        _stream = ChangeStream(loop)
    return _stream


# --- for views


def stream(position: Position) -> HttpResponse:
    """Return the changes after `position` as events, continued by new ones.

    A client that is far behind gets one page of them, and reconnects for the next.
    """
    events = [encode_event(change) for change in feed.changes_after(position, PAGE)]
    is_behind = len(events) == PAGE
    if events:
        position = events[-1].position
    # An id without data is no event, but the client reconnects with it.
    last_id = f"id: {feed.cursor_of(position)}\n\n".encode()
    retry = RETRY_AT_ONCE if is_behind else RETRY
    first = b"".join([retry, *(event.frame for event in events), last_id])
    response = HttpResponse(first, content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    if not is_behind:
        response.continuation = Stream(  # type: ignore[attr-defined]
            lambda: running_stream().events(first, position)
        )
    return response


def wait[R: HttpResponse](
    response: R, cursor: str | None, seconds: float, then: str
) -> R:
    """Delay `response` until there is a change after `cursor`.

    A GET of `then` takes its place.
    """
    position = feed.parse_position(cursor)
    # With an ETag, the conditional request would get its 304 at once.
    response["Cache-Control"] = "no-store"
    response.continuation = Wait(  # type: ignore[attr-defined]
        lambda: running_stream().wait_for_change(position), seconds, then
    )
    return response
