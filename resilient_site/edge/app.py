"""The site as an ASGI application: asyncio in front of Django.

The way of a request, top to bottom: a fresh response in the shared cache is sent at
once; else probes and metrics; a shared response that is fetched once for all clients
that ask for it; else Django, when it is admitted. Where Django fails or the request is
rejected, a reader gets the stale response of the last 24 hours, marked as such, if any
process of the machine has one; else a problem document with 503.
"""

from functools import partial
from time import monotonic

from resilient_site.edge import lifespan, probes, wsgi_bridge
from resilient_site.edge.access_log import RequestRecorder, record_hit
from resilient_site.edge.admission import Rejected
from resilient_site.edge.asgi_types import Headers, Message, Receive, Send
from resilient_site.edge.cache import batches, coalescing, private_cache
from resilient_site.edge.cache.cached_response import (
    CachedResponse,
    invalidates_cached_response,
)
from resilient_site.edge.cache.invalidation import now
from resilient_site.edge.cache.keys import Key, key_of, may_be_shared, query_of
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.cors import cors_headers
from resilient_site.edge.error_responses import send_error
from resilient_site.edge.policy import policy_at
from resilient_site.edge.request import (
    SAFE,
    ClientGone,
    EdgeRequest,
    RequestContext,
    identifies_client,
    normalize,
)
from resilient_site.edge.request_body import received_body
from resilient_site.edge.wsgi_bridge import (
    Response,
    is_verified,
    run_django,
    watched,
)
from resilient_site.errors import SiteError
from resilient_site.observability.request_id import choose_id, start_request

# What some clients say of a GET, where others say nothing.
NO_BODY = b"content-length", b"0"


async def application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        if not await send_cache_hit(scope, send):
            await serve(scope, receive, send)
    elif scope["type"] == "lifespan":
        await lifespan.run(receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})


async def send_cache_hit(scope: Message, send: Send) -> bool:
    """Send the fresh shared response; return False if there is more to decide."""
    method, path, query = scope["method"], scope["path"], scope["query_string"]
    policy = policy_at(path, "GET")
    shared = policy.shared
    if shared is None or method not in SAFE:
        return False
    host = offered_id = traceparent = b""
    for name, value in scope["headers"]:
        if name not in shared.relevant_headers:
            continue
        if name == b"host" and not host:
            host = value
        elif name == b"x-request-id":
            offered_id = value
        elif name == b"traceparent":
            traceparent = value
        elif (name, value) != NO_BODY and (
            name != b"cookie" or identifies_client(value)
        ):
            return False  # conditional, authenticated, with a body, or of htmx
    counting = query_of(query, shared) if query else ""
    if counting is None:
        return False
    key = Key(host, scope["scheme"], path, counting, shared.without_headers)
    response = response_store.memory.get(key)
    if response is None or response.status != 200 or not response.is_fresh():
        return False
    age = monotonic() - response.stored
    headers = [
        *response.headers,
        (b"age", b"%d" % age),
        (b"cache-status", b"resilient-site; hit; ttl=%d" % (response.fresh_s - age)),
        (b"x-request-id", choose_id(offered_id, traceparent)),
    ]
    body = response.body if method == "GET" else b""
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    record_hit(scope, policy.route, len(body))
    return True


async def serve(scope: Message, receive: Receive, send: Send) -> None:
    normalize(scope)
    extra = start_request(scope)
    recorder = RequestRecorder(scope, send)
    try:
        request = EdgeRequest(scope)
        if b"origin" in request.headers:
            extra += cors_headers(request)
        await answer(request, receive, recorder.send, extra)
    finally:
        recorder.end()


async def answer(
    request: EdgeRequest, receive: Receive, send: Send, extra: Headers
) -> None:
    try:
        if request.path in probes.PATHS and await probes.answer(request, send, extra):
            return
        requests = wsgi_bridge.admission.requests
        if not requests.has_room(request.client):
            extra = [*extra, (b"connection", b"close")]
            requests.check(request.client)
        with requests.taken(request.client):
            is_read = request.is_safe
            if not is_read or not await coalescing.answer(
                request, receive, send, extra
            ):
                await forward(request, receive, send, extra)
    except ClientGone:
        return
    except SiteError as error:
        await send_error(request, send, error, extra)


async def forward(
    request: EdgeRequest, receive: Receive, send: Send, extra: Headers
) -> None:
    """Send Django's response; if that fails a reader, the stale response."""
    context, read_at, asked = RequestContext(), now(), None
    try:
        if request.policy.batch is None:  # else it may be in the cache
            wsgi_bridge.admission.check(request.priority, request.deadline)
        verify = partial(is_verified, request)
        async with received_body(
            request, receive, wsgi_bridge.admission, verify
        ) as body:
            asked = batches.parse(request, body) if request.policy.batch else None
            if asked and await batches.send_cached(request, asked, send, extra):
                return
            async with watched(receive, context):
                response = await run_django(request, body, context, send)
    except SiteError as error:
        is_overload = isinstance(error, Rejected)
        if error.status < 500 or not await answer_without_django(
            request, send, extra, is_overload, asked
        ):
            raise
        return
    if response is None:
        return
    if response.status >= 500 and await answer_without_django(
        request, send, extra, asked=asked
    ):
        return
    if response.status == 401 or context.has_dead_session:
        private_cache.void(request)
    await send_response(request, response, read_at, send, extra)
    if request.method == "GET":
        store_response(request, context, response, read_at)
    elif asked:
        batches.store(request, asked, response, context.parts, read_at)


async def send_response(
    request: EdgeRequest, response: Response, read_at: int, send: Send, extra: Headers
) -> None:
    """Send the response; marked as stale if a replica stands in for the primary."""
    copy = None
    if response.is_stale:
        copy = CachedResponse.from_response(response, read_at)
    await (copy.send_stale(request, send, extra) if copy else response.send(send))


async def answer_without_django(
    request: EdgeRequest,
    send: Send,
    extra: Headers,
    is_overload: bool = False,
    asked: batches.Asked | None = None,
) -> bool:
    if asked:
        return await batches.send_stale(request, asked, send, extra, is_overload)
    return await probes.show_status(
        request, send, extra
    ) or await coalescing.send_stale_response(request, send, extra, is_overload)


def store_response(
    request: EdgeRequest, context: RequestContext, response: Response, read_at: int
) -> None:
    """Store the response for all clients or for this one, as its headers allow."""
    if response.is_stale:
        return  # what is stored may be newer
    if invalidates_cached_response(response.status):
        private_cache.forget(request)
    identity = context.identity
    copy = CachedResponse.from_response(response, read_at) if identity else None
    if identity is None or copy is None:
        return
    key = key_of(request)
    if (
        key
        and may_be_shared(copy, key)
        and not copy.varies_by_token
        # Else its cookies, or parameters that do not count, may be in it.
        and not request.has_cookie
        and request.query == key.query.encode()
    ):
        response_store.put(key, copy)
    elif copy.stale_if_error_s:
        private_cache.keep(request, identity, copy)
