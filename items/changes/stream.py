"""Change stream: server-sent events, and requests that wait for the next change.

All streams of a web process share one reader in a thread of its own, which runs while
there are any. It notices at once what has changed on this machine, or was announced by
another one, and polls for the rest twice a second. The last changes are buffered, up
to a number of bytes; a stream that has not sent what was dropped ends, and its client
reconnects with the id of the last event; so do all when the epoch ends. While the
database fails or hangs, streams stay open, kept alive by comments.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import takewhile
from typing import NamedTuple

from django.http import HttpResponse

from items.changes import feed
from items.changes.feed import START, Position
from items.models import ItemChange
from resilient_site.api import json_format
from resilient_site.edge.cache.invalidation import CHANGES, invalidations, slot_of
from resilient_site.edge.streaming import (
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    Wait,
    event_stream,
    is_set_within,
    one_per_loop,
)
from resilient_site.models import Epoch
from resilient_site.resilience.poller import Poller

Action = ItemChange.Action
POLL_S = 0.05
READ_EVERY_S = 0.5
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


class ChangeEvent(NamedTuple):
    """A change as a server-sent event."""

    position: Position
    frame: bytes
    # The collections that it concerns; empty: any may be.
    keys: frozenset[str] = frozenset()

    def concerns(self, key: str) -> bool:
        return not key or not self.keys or key in self.keys


def encode_event(epoch: str, change: ItemChange) -> ChangeEvent:
    position = feed.position_of(change)
    data = json_format.encode(feed.as_json(change))
    cursor = feed.cursor_of(epoch, position)
    head = f"event: change\nid: {cursor}\ndata: ".encode()
    return ChangeEvent(position, head + data + b"\n\n", feed.keys_of(change))


def encode_position(epoch: str, position: Position) -> bytes:
    """Return an id without data: no event, but its client reconnects with it."""
    return f"id: {feed.cursor_of(epoch, position)}\n\n".encode()


class EventBuffer:
    """The last events of an epoch, bounded by bytes, and the position before them.

    The newest one is kept whatever its size.
    """

    def __init__(
        self, epoch: str, events: Iterable[ChangeEvent], start: Position
    ) -> None:
        self.epoch = epoch
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
        # Changed only in the thread.
        self._epoch: str | None = None
        self._position = START
        self._poller = Poller[asyncio.Event](loop, "Changes", POLL_S, self._begin)

    async def events(
        self, first: bytes, epoch: str, position: Position, key: str
    ) -> AsyncGenerator[bytes]:
        """Yield `first`, then the events after `position`, with a `key` those of it.

        Ends if some were dropped, and with the epoch: its client then reconnects.
        """
        with self._poller.subscribed(asyncio.Event()) as changed:
            yield first
            sent_at = time.monotonic()
            while True:
                changed.clear()
                buffer = self.buffer
                if buffer and (buffer.epoch != epoch or position < buffer.start):
                    return
                newer = buffer.after(position)[:SEND_BATCH] if buffer else []
                if newer:
                    position = newer[-1].position
                    frames = [event.frame for event in newer if event.concerns(key)]
                    if frames or time.monotonic() - sent_at > KEEP_ALIVE_S:
                        yield b"".join(frames) or encode_position(epoch, position)
                        sent_at = time.monotonic()
                elif not await is_set_within(changed, KEEP_ALIVE_S):
                    yield encode_position(epoch, position) if key else KEEP_ALIVE
                    sent_at = time.monotonic()

    async def wait_for_change(self, epoch: str, position: Position, key: str) -> None:
        """Return when there is a change after `position`, or the epoch has ended.

        With a `key` that is one of that collection, or one that was dropped.
        """
        with self._poller.subscribed(asyncio.Event()) as changed:
            while True:
                changed.clear()
                if buffer := self.buffer:
                    if buffer.epoch != epoch or position < buffer.start:
                        return
                    newer = buffer.after(position)
                    if any(event.concerns(key) for event in newer):
                        return
                    position = max(position, buffer.end)
                await changed.wait()

    def _publish(self, events: list[ChangeEvent], new: EventBuffer | None) -> None:
        """Take the new buffer, or add the events to the one there is."""
        if new:
            self.buffer = new
        elif self.buffer:
            self.buffer.extend(events)
        for changed in self._poller.subscribers():
            changed.set()

    def _begin(self) -> Callable[[], None]:
        """Return what a new thread calls again and again."""
        self.buffer = self._epoch = None
        self._seen, self._read_at = 0, 0.0
        return self._poll

    # --- in the thread

    def _poll(self) -> None:
        seen = invalidations.slots[slot_of(CHANGES)]
        if seen == self._seen and time.monotonic() < self._read_at:
            return
        epoch = Epoch.current()  # first: see feed.parse_cursor
        is_same = epoch == self._epoch
        changes = feed.changes_after(self._position, READ_BATCH) if is_same else []
        # After a purge the buffer may hold contents that were removed.
        if not is_same or any(change.action == Action.PURGED for change in changes):
            changes = feed.last_changes(INITIAL_EVENTS)
            is_whole = len(changes) < INITIAL_EVENTS
            start = START if is_whole else feed.position_of(changes[0])
            events = [encode_event(epoch, change) for change in changes]
            buffer = EventBuffer(epoch, events, start)
            self._epoch, self._position = epoch, buffer.end
            self._publish_in_loop([], buffer)
            return  # at once it is read again: there may have been another purge
        if changes:
            self._position = feed.position_of(changes[-1])
            self._publish_in_loop([encode_event(epoch, change) for change in changes])
        # Not if there may be more, nor after a failure: then it is read again at once.
        if len(changes) < READ_BATCH:
            self._seen, self._read_at = seen, time.monotonic() + READ_EVERY_S

    def _publish_in_loop(
        self, events: list[ChangeEvent], new: EventBuffer | None = None
    ) -> None:
        self.loop.call_soon_threadsafe(self._publish, events, new)


running_stream = one_per_loop(ChangeStream)


# --- for views


def stream(epoch: str, position: Position, key: str = "") -> HttpResponse:
    """Return the changes after `position` as events, continued by new ones.

    A client that is far behind gets one page of them, and reconnects for the next.
    """
    changes, position, is_all = feed.read(position, PAGE, key)
    last_id = encode_position(epoch, position)
    frames = (encode_event(epoch, change).frame for change in changes)
    first = b"".join([RETRY if is_all else RETRY_AT_ONCE, *frames, last_id])

    def events() -> AsyncGenerator[bytes]:
        return running_stream().events(first, epoch, position, key)

    return event_stream(first, events if is_all else None)


def wait[R: HttpResponse](
    response: R, epoch: str, position: Position, key: str, seconds: float, then: str
) -> R:
    """Delay `response` until there is a change after `position`, or another epoch.

    A GET of `then` takes its place.
    """
    # With an ETag, the conditional request would get its 304 at once.
    response["Cache-Control"] = "no-store"
    response.continuation = Wait(  # type: ignore[attr-defined]
        lambda: running_stream().wait_for_change(epoch, position, key), seconds, then
    )
    return response
