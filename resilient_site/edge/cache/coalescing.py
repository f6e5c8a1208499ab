"""Coalescing (single-flight) for the shared cache: each response is fetched once.

Views state in their policy which responses they share (`edge.policy`). While one is
fetched, all requests for it wait for that fetch; while a newer one is fetched, the
older one is sent (RFC 5861); where the fetch fails, the stale response is. What fails
is left alone for PAUSE_S. Of the freshness that a client asks for (`no-cache`,
`max-age`) nothing is followed, or any client could have everything fetched at will;
changes are seen at once anyway.
"""

import asyncio
import time
from dataclasses import dataclass, field

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge import wsgi_bridge
from resilient_site.edge.admission import Rejected
from resilient_site.edge.asgi_types import Headers, Message, Receive, Send
from resilient_site.edge.cache import batches, grouped_reads, private_cache
from resilient_site.edge.cache.cached_response import (
    COLLAPSED,
    HIT,
    STORED,
    CachedResponse,
    invalidates_cached_response,
)
from resilient_site.edge.cache.invalidation import CHANGES, invalidations, mark, now
from resilient_site.edge.cache.keys import Key, key_of, may_be_shared
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import ClientGone, EdgeRequest, RequestContext
from resilient_site.edge.wsgi_bridge import Response, run_django, until_gone
from resilient_site.errors import DeadlinePassed, SiteError
from resilient_site.resilience.bounded_dict import BoundedDict

# After a failure the stale response is sent for so long without a new attempt.
PAUSE_S = 1.0
PAUSED_MAX = 10_000
# A fetch goes on for so long when no client waits for it any more.
ABANDONED_GRACE_S = 1.0

type Fetched = CachedResponse | Response


@dataclass
class Flight:
    """One fetch of one response, for all clients that ask for it meanwhile."""

    task: asyncio.Task[Fetched] = field(init=False)
    read_at: int = field(default_factory=now)
    context: RequestContext = field(default_factory=lambda: RequestContext(True))
    waiting: int = 0
    action: str = STORED  # for the first of them

    @property
    def is_given_up(self) -> bool:
        return self.context.client_gone.is_set()

    def may_be_joined(self) -> bool:
        """Return whether nothing has changed: a later request must see a change."""
        is_current = invalidations.is_current(mark(self.read_at, [CHANGES]))
        return is_current and not self.is_given_up

    async def wait(self, request: EdgeRequest, receive: Receive) -> Fetched:
        """Wait as this client does. Raises ClientGone, DeadlinePassed, SiteError."""
        left = request.deadline - time.monotonic()
        gone = asyncio.ensure_future(until_gone(receive))
        self.waiting += 1
        try:
            await asyncio.wait(
                {self.task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            gone.cancel()
            self.waiting -= 1
            if not self.task.done():
                # One with a thread goes on a little: other clients may come for it.
                grace_s = ABANDONED_GRACE_S if self.context.was_admitted else 0.0
                loop = asyncio.get_running_loop()
                loop.call_later(grace_s, self._give_up_if_abandoned)
        if self.task.done():
            return self.task.result()
        raise ClientGone if gone.done() else DeadlinePassed

    def _give_up_if_abandoned(self) -> None:
        if not self.waiting and not self.task.done():
            self.context.client_gone.set()


in_flight: dict[Key, Flight] = {}
paused = BoundedDict[Key, float](PAUSED_MAX)


async def answer(
    request: EdgeRequest, receive: Receive, send: Send, extra: Headers
) -> bool:
    """Send a shared response; return False if Django has to answer this client."""
    # A client with a session gets pages of its own, and Django alone reads bodies.
    has_own = request.has_body or (request.has_cookie and not request.is_anonymous)
    key = None if has_own else key_of(request)
    if key is None:
        return False
    is_paused = time.monotonic() < paused.get(key, 0.0)
    copy = response_store.memory.get(key)
    if copy and copy.is_fresh() and _is_for(request, copy):
        await copy.send(request, send, extra)
        return True
    if not request.is_anonymous and not _may_be_grouped(request):
        return False
    # An older one may lack a change that a machine without Redis has confirmed; one who
    # may have made it is not sent that.
    if request.is_anonymous and copy and copy.is_usable_while_revalidating():
        if not is_paused and not batches.fetch_with_others(request, key):
            _join_or_start(key, request)
        await copy.send(request, send, extra)
        return True
    if is_paused and await send_stale_response(request, send, extra):
        return True
    return await _answer_with_new(key, request, receive, send, extra)


def _is_for(request: EdgeRequest, copy: CachedResponse) -> bool:
    return request.is_anonymous or (
        not copy.varies_by_token
        and any(map(verified_tokens().is_valid, request.credentials))
    )


def _may_be_grouped(request: EdgeRequest) -> bool:
    """Return whether its token is valid, and what it reads is the same for all."""
    return request.policy.read_many is not None and any(
        map(verified_tokens().is_valid, request.credentials)
    )


async def _answer_with_new(
    key: Key, request: EdgeRequest, receive: Receive, send: Send, extra: Headers
) -> bool:
    try:
        if key not in in_flight:
            wsgi_bridge.admission.check(request.priority, request.deadline)
        flight, has_joined = _join_or_start(key, request)
        fetched = await flight.wait(request, receive)
    except SiteError as error:
        if await send_stale_response(request, send, extra, isinstance(error, Rejected)):
            return True
        raise
    if not request.is_anonymous and not (
        isinstance(fetched, CachedResponse) and _is_for(request, fetched)
    ):
        return False
    if isinstance(fetched, CachedResponse):
        if not fetched.fresh_s:
            await fetched.send_stale(request, send, extra)
            return True
        action = COLLAPSED if has_joined else flight.action
        await fetched.send(request, send, extra, action)
        return True
    if fetched.status >= 500:
        if await send_stale_response(request, send, extra):
            return True
    elif has_joined:
        return False  # it is another client's, which may have met its rate limit
    await fetched.send(send, extra)
    return True


async def send_stale_response(
    request: EdgeRequest, send: Send, extra: Headers, is_overload: bool = False
) -> bool:
    """Send a reader its own stale response, or else the shared one; return whether."""
    if not request.is_safe:
        return False
    in_memory_only = is_overload and response_store.is_busy()
    copy = await private_cache.find(request, in_redis=not in_memory_only)
    if copy is None or not copy.is_usable_if_error():
        key = key_of(request)
        copy = await response_store.find_stale(key, in_memory_only) if key else None
    if copy is None or not copy.is_usable_if_error():
        return False
    await copy.send_stale(request, send, extra)
    return True


def _join_or_start(key: Key, request: EdgeRequest) -> tuple[Flight, bool]:
    flight = in_flight.get(key)
    if flight and flight.may_be_joined():
        return flight, True
    flight = in_flight[key] = Flight()
    # Eager, so that it has its place in the queue before the next request is checked.
    loop = asyncio.get_running_loop()
    flight.task = asyncio.Task(
        _fetch(key, request, flight), loop=loop, eager_start=True
    )

    def on_done(task: asyncio.Task[Fetched]) -> None:
        if in_flight.get(key) is flight:
            del in_flight[key]
        if not task.cancelled():
            task.exception()  # raised to those who wait for it, if any

    flight.task.add_done_callback(on_done)
    return flight, False


async def _fetch(key: Key, request: EdgeRequest, flight: Flight) -> Fetched:
    if found := await response_store.find_fresh_in_redis(key):
        flight.action = HIT
        return found
    try:
        response = await _read(key, request, flight.context)
    except SiteError:
        if not flight.is_given_up:
            paused[key] = time.monotonic() + PAUSE_S
        raise
    if response is None or flight.is_given_up:
        raise ClientGone
    if response.status >= 500:
        paused[key] = time.monotonic() + PAUSE_S
        return response
    copy = CachedResponse.from_response(response, flight.read_at)
    if copy is None or not may_be_shared(copy, key):
        if copy or invalidates_cached_response(response.status):
            response_store.delete(key)
        return response
    if response.is_stale:
        copy = copy.as_stale()
        paused[key] = time.monotonic() + PAUSE_S
    else:
        paused.pop(key, None)
    response_store.put(key, copy)
    return copy


async def _read(
    key: Key, request: EdgeRequest, context: RequestContext
) -> Response | None:
    response = await grouped_reads.read(request, context)
    if response is None:
        # Made now: it takes over how the request was counted in the group.
        asked = request.as_shared(key.query, key.headers)
        response = await run_django(asked, None, context, _send_nothing)
        if response:
            grouped_reads.learn_headers(asked, response)
    return response


async def _send_nothing(message: Message) -> None:
    """A response that is shared is never streamed."""
