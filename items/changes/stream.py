"""Following the change log: server-sent events, and requests that wait for a change.

All who follow in one web process share one reader in a thread of its own; where nobody
follows there is none. It sees at once that something has changed on this machine, or
was heard of from another one, and looks for the rest twice a second. The last changes
are kept, in so many bytes; a stream that has not sent what was dropped ends, and its
client comes back with the id of the last event. While the database fails or hangs,
streams stay open, kept alive by comments.
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

LOOK_S = 0.05
READ_EVERY_S = 0.5
# Well below the time after which proxies take a connection for dead.
KEEP_ALIVE_S = 15.0
WAIT_MAX_S = 60

# What the reader begins with, for those who asked the database just before.
TAIL = 100
BATCH = 500
KEPT_BYTES = 4 * 1024 * 1024
AT_ONCE = 100
# Who is further behind gets so many, and comes back.
PAGE = 1_000

RETRY = b"retry: 2000\n\n"
RETRY_AT_ONCE = b"retry: 100\n\n"
KEEP_ALIVE = b":\n\n"


@dataclass(frozen=True)
class Told:
    """One change as its event."""

    position: Position
    frame: bytes


def tell(change: ItemChange) -> Told:
    position = feed.position_of(change)
    data = orjson.dumps(feed.as_json(change), option=orjson.OPT_UTC_Z)
    head = f"event: change\nid: {feed.cursor_of(position)}\ndata: ".encode()
    return Told(position, head + data + b"\n\n")


class Tail:
    """The last changes, and where they begin: whoever is not that far has missed some.

    The newest one is kept whatever its size.
    """

    def __init__(self, told: Iterable[Told], begin: Position) -> None:
        self.begin = self.end = begin
        self._told: deque[Told] = deque()
        self._size = 0
        self.extend(told)

    def extend(self, told: Iterable[Told]) -> None:
        for one in told:
            self._told.append(one)
            self._size += len(one.frame)
            self.end = one.position
        while self._size > KEPT_BYTES and len(self._told) > 1:
            dropped = self._told.popleft()
            self._size -= len(dropped.frame)
            self.begin = dropped.position

    def after(self, position: Position) -> list[Told]:
        newer = takewhile(lambda one: one.position > position, reversed(self._told))
        return list(newer)[::-1]


class Feed:
    """Reads the log for all requests of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.tail: Tail | None = None  # changed in the loop alone
        self._poller = Poller[asyncio.Event](loop, "Changes", LOOK_S, self._reader)

    async def events(self, begin: bytes, position: Position) -> AsyncGenerator[bytes]:
        """Yield `begin`, then the events after `position`, until too many wait."""
        with self._following() as changed:
            yield begin
            while True:
                changed.clear()
                if self.tail and position < self.tail.begin:
                    return
                newer = self.tail.after(position)[:AT_ONCE] if self.tail else []
                if newer:
                    position = newer[-1].position
                    yield b"".join(one.frame for one in newer)
                elif not await _is_set(changed, KEEP_ALIVE_S):
                    yield KEEP_ALIVE

    async def news(self, position: Position) -> None:
        """Return when there is a change after `position`."""
        with self._following() as changed:
            while self.tail is None or self.tail.end <= position:
                changed.clear()
                await changed.wait()

    def _following(self) -> AbstractContextManager[asyncio.Event]:
        return self._poller.wanted_by(asyncio.Event())

    def _reader(self) -> Callable[[], None]:
        self.tail = None
        return Reader(self).turn

    def _begin(self, told: list[Told], begin: Position) -> None:
        self.tail = Tail(told, begin)
        self._ring()

    def _go_on(self, told: list[Told]) -> None:
        if self.tail and told:
            self.tail.extend(told)
            self._ring()

    def _ring(self) -> None:
        for changed in self._poller.everybody():
            changed.set()


class Reader:
    """Reads on where it stopped, whenever there may be something."""

    def __init__(self, reading: Feed) -> None:
        self._feed = reading
        self._position: Position | None = None
        self._seen = 0
        self._read_at = 0.0

    def turn(self) -> None:
        seen = invalidations.slots[slot_of(CHANGES)]
        if seen == self._seen and time.monotonic() < self._read_at:
            return
        if self._position is None:
            self._begin()
        else:
            self._go_on(self._position)
        # Not before it has succeeded: after a failure it is to be tried again.
        self._seen, self._read_at = seen, time.monotonic() + READ_EVERY_S

    def _begin(self) -> None:
        told = [tell(change) for change in feed.last_changes(TAIL)]
        begin = told[0].position if len(told) == TAIL else START
        self._position = told[-1].position if told else START
        self._hand_over(self._feed._begin, told, begin)

    def _go_on(self, position: Position) -> None:
        is_full = True
        while is_full:
            told = [tell(change) for change in feed.changes_after(position, BATCH)]
            is_full = len(told) == BATCH
            if told:
                self._position = position = told[-1].position
                self._hand_over(self._feed._go_on, told)

    def _hand_over(self, receive: Callable[..., None], *what: object) -> None:
        self._feed.loop.call_soon_threadsafe(receive, *what)


async def _is_set(changed: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await changed.wait()
    except TimeoutError:
        return False


_feed: Feed | None = None


def running_feed() -> Feed:
    """Return that of the running event loop, made at its first use: after any fork."""
    global _feed
    loop = asyncio.get_running_loop()
    if _feed is None or _feed.loop is not loop:
        _feed = Feed(loop)
    return _feed


# --- for views


def stream(position: Position) -> HttpResponse:
    """Answer with the changes after `position` as events, and go on with new ones.

    By itself the response is the next page of them, to be followed by the next one:
    as it is for those who are so far behind that there is more.
    """
    told = [tell(change) for change in feed.changes_after(position, PAGE)]
    is_behind = len(told) == PAGE
    if told:
        position = told[-1].position
    # An id without data is no event, and yet what the client comes back with.
    place = f"id: {feed.cursor_of(position)}\n\n".encode()
    retry = RETRY_AT_ONCE if is_behind else RETRY
    begin = b"".join([retry, *(one.frame for one in told), place])
    response = HttpResponse(begin, content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    if not is_behind:
        response.continuation = Stream(  # type: ignore[attr-defined]
            lambda: running_feed().events(begin, position)
        )
    return response


def wait[R: HttpResponse](
    response: R, cursor: str | None, seconds: float, then: str
) -> R:
    """Delay `response` until there is a change after `cursor`.

    A GET of `then` takes its place.
    """
    position = feed.parse_position(cursor)
    # A tag by which it is known to be the same would have it answered at once.
    response["Cache-Control"] = "no-store"
    response.continuation = Wait(  # type: ignore[attr-defined]
        lambda: running_feed().news(position), seconds, then
    )
    return response
