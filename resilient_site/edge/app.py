"""The site as an ASGI application: asyncio in front of Django.

What is hot, refused or long is answered here, where it costs no thread. The way of a
request: its id; probes; an answer that is the same for everybody; else Django, if
there is room; and when Django has none for a reader, the last answer that is known.
"""

from resilient_site.edge import lifespan, metrics_endpoint, probes
from resilient_site.edge.access_log import Observed
from resilient_site.edge.admission import Refused
from resilient_site.edge.cache import coalescing, private_cache
from resilient_site.edge.cache.cached_response import Headers
from resilient_site.edge.cache.keys import key_of, may_be_shared
from resilient_site.edge.cache.response_capture import Tap, says_it_is_void
from resilient_site.edge.cache.stale_responses import keep_shared, send_last_known
from resilient_site.edge.error_responses import send_error
from resilient_site.edge.request import Incoming, tidy
from resilient_site.edge.request_body import ClientGone, new_body, receive_body
from resilient_site.edge.streaming import Exchange, Message, Receive, Send
from resilient_site.edge.wsgi_bridge import ask
from resilient_site.errors import SiteError
from resilient_site.observability import tracing
from resilient_site.observability.request_id import begin_exchange


async def application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan.run(receive, send)
    elif scope["type"] == "http":
        tidy(scope)
        parent = tracing.parent_of(scope)
        extra = begin_exchange(scope)
        observed = Observed(scope, send)
        try:
            with tracing.of_request(scope, parent):
                await answer(Incoming(scope), receive, observed.send, extra)
        finally:
            observed.end()
    else:
        await send({"type": "websocket.close", "code": 1000})


async def answer(
    request: Incoming, receive: Receive, send: Send, extra: Headers
) -> None:
    try:
        if await probes.answer(request, send, extra):
            return
        if await metrics_endpoint.answer(request, send, extra):
            return
        if not await coalescing.answer(request, receive, send, extra):
            await forward(request, receive, send, extra)
    except ClientGone:
        return
    except SiteError as error:
        await send_error(request, send, error, extra)


async def forward(
    request: Incoming, receive: Receive, send: Send, extra: Headers
) -> None:
    """Let Django answer; if it fails a reader, give him the last known answer."""
    kind = request.kind(private_cache.is_recognized(request))
    tap = Tap(request, send)
    try:
        with new_body() as body:
            await receive_body(request, receive, body)
            exchange = await ask(request, kind, body, receive, tap.send)
    except SiteError as error:
        is_rush = isinstance(error, Refused)
        if not await answer_without_django(request, send, extra, is_rush):
            raise
        return
    if tap.failure:
        if not await answer_without_django(request, send, extra):
            await tap.failure.send(request, send, [])
        return
    learn(request, exchange, tap)


async def answer_without_django(
    request: Incoming, send: Send, extra: Headers, is_rush: bool = False
) -> bool:
    return await probes.show_status(request, send, extra) or await send_last_known(
        request, send, extra, is_rush
    )


def learn(request: Incoming, exchange: Exchange, tap: Tap) -> None:
    """Note who was answered, and keep what may be kept of the answer."""
    identity, copy = exchange.identity, tap.copy()
    if request.method == "GET" and says_it_is_void(tap.status):
        private_cache.forget(request)
    if identity is None:
        return
    if copy is None:
        return
    key = key_of(request)
    if (
        key
        and may_be_shared(copy, key)
        and not copy.varies_by_token
        # Else his cookies, or parameters that do not count, may be in it.
        and not request.has_cookie
        and request.query == key.query.encode()
    ):
        keep_shared(key, copy)
    elif copy.stale_if_error_s:
        private_cache.keep(request, identity, copy)
