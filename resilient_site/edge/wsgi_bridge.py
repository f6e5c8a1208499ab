"""The bridge to Django: its WSGI handler in a bounded pool of threads.

Django's own ASGI handler costs about three times as much for synchronous views. A
thread is for Django alone: bodies are received before one is taken, and a whole
response comes back from it in one step, as each more between a thread and the event
loop would cost as much as a query. What a thread streams is passed on piece by piece;
when the client goes, or reads nothing for IDLE_S, the thread is given back. Responses
that wait or go on for long (`streaming`) need no thread meanwhile.
"""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from io import BytesIO
from time import monotonic
from typing import IO, Any, NamedTuple

from a2wsgi.wsgi import build_environ
from django import setup
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import DatabaseError, InterfaceError, close_old_connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge.admission import CONNECTIONS_MAX, Admission
from resilient_site.edge.asgi_types import Headers, Message, Receive, Send
from resilient_site.edge.policy import resolve_path
from resilient_site.edge.request import (
    SCOPE_KEY,
    ClientGone,
    EdgeRequest,
    RequestContext,
    client_of_user,
)
from resilient_site.edge.request_body import IDLE_S
from resilient_site.edge.streaming import (
    STREAM_MAX_S,
    Stream,
    Wait,
    in_flight_responses,
    record_response,
    send_pieces,
)
from resilient_site.errors import SiteError, as_site_error
from resilient_site.observability.request_id import (
    HEADER_BYTES,
    RequestIds,
    request_ids,
)
from resilient_site.ratelimit.middleware import count_unproven
from resilient_site.resilience import deadlines
from resilient_site.resilience.cache_control import TAGS

logger = logging.getLogger(__name__)

type SendPiece = Callable[[Message], Coroutine[Any, Any, None]]

# What the response after a wait takes over from the one before it.
CARRIED_OVER = {b"location", b"preference-applied", b"idempotent-replayed"}


class Response(NamedTuple):
    """A whole response of Django's, and the tags of what it was made of."""

    status: int
    headers: Headers
    tags: str
    body: bytes
    # See RequestContext.
    as_of: int = 0
    is_stale: bool = False

    async def send(self, send: Send, extra: Headers | None = None) -> None:
        headers = [*self.headers, *extra] if extra else self.headers
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Django(WSGIHandler):
    """Django, asked how its response goes on before that is begun.

    What the handler returns need not be the response: Sentry wraps it.
    """

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        context: RequestContext = request.META["asgi.scope"][SCOPE_KEY]
        response = super().get_response(request)
        if context.identity:
            context.client = client_of_user(context.identity.user_id)
        if response.streaming or hasattr(response, "continuation"):
            record_response(response, context, admission.streams)
        context.parts = getattr(response, "parts", ())
        return response

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Return what the policy was found by; resolving again costs 6 to 20 %."""
        match = resolve_path(request.path_info)
        if match is None or hasattr(request, "urlconf"):
            return super().resolve_request(request)
        request.resolver_match = match
        return match


setup()  # unless it is done
django = Django()
pool = ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="django")
files: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
admission = Admission(
    settings.WEB_THREADS,
    settings.ADMISSION_PATIENCE_S,
    settings.ADMISSION,
    connections=CONNECTIONS_MAX if files == resource.RLIM_INFINITY else files,
    body_bytes=settings.BODIES_MAX_BYTES,
)


async def run_django(
    request: EdgeRequest,
    body: IO[bytes] | None,
    context: RequestContext,
    send: Send,
) -> Response | None:
    """Return Django's response; None if it was streamed, or the client has gone.

    Raises Rejected, DeadlinePassed or ClientGone before Django has run.
    """
    request.scope[SCOPE_KEY], context.client = context, request.client
    send_piece = partial(_send_piece, send, context)
    response = await _run_in_thread(request, body, context, send_piece)
    if isinstance(context.continuation, Wait) and response and context.gone:
        wait, context.continuation = context.continuation, None
        with admission.streams.taken(context.client):
            await in_flight_responses.run(wait.until(), context.gone, wait.timeout_s)
        if context.gone.done():
            await asyncio.to_thread(wait.if_left)
            return None
        context.is_after_wait = True
        get = request.as_internal_get(wait.then)
        try:
            final = await _run_in_thread(get, None, context, send_piece)
        except (SiteError, ClientGone):
            return response
        response = _after_wait(response, final)
    stream = context.continuation
    if isinstance(stream, Stream) and response and context.gone:
        start = {"type": "http.response.start", "status": response.status}
        await send_piece({**start, "headers": response.headers})
        if request.method != "HEAD":
            pieces = send_pieces(stream, send_piece, context)
            with admission.streams.taken(context.client):
                await in_flight_responses.run(pieces, context.gone, STREAM_MAX_S)
        await send_piece({"type": "http.response.body"})
        return None
    return None if context.gone and context.gone.done() else response


def _after_wait(first: Response, final: Response | None) -> Response | None:
    """Return the response after a wait: `final`, or `first` if that fails.

    What was promised is still true, and "nothing was changed" is not.
    """
    if final is None:
        return None  # it was streamed
    if final.status >= 400 > first.status:
        logger.warning("The GET after a wait failed: %d.", final.status)
        return first
    names = {name for name, _ in final.headers}
    kept = [one for one in first.headers if one[0] in CARRIED_OVER - names]
    return final._replace(headers=[*final.headers, *kept])


async def is_verified(request: EdgeRequest) -> bool:
    """Return whether it has a valid token or session, by the database if need be.

    Raises RateLimited for an address with too many that were not verified before.
    """
    if any(map(verified_tokens().is_valid, request.credentials)):
        return True
    if not request.credentials:
        return False
    running = await admission.enter(request.priority, request.deadline, deadlines.never)
    began, loop = monotonic(), asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(pool, _verify, request)
    finally:
        admission.leave(request.priority, monotonic() - began, running)


def _verify(request: EdgeRequest) -> bool:
    lock_wait_s = settings.LOCK_WAITS_S["read"]
    deadlines.current.set(deadlines.Deadline(request.deadline, lock_wait_s=lock_wait_s))
    close_old_connections()
    try:
        if not request.is_recognized:
            count_unproven(request.client)
        authorization = request.headers.get(b"authorization", b"")
        return verified_tokens().verify(authorization, request.session_key)
    except (DatabaseError, InterfaceError) as error:
        raise as_site_error(error) from error
    finally:
        close_old_connections()


async def _run_in_thread(
    request: EdgeRequest,
    body: IO[bytes] | None,
    context: RequestContext,
    send_piece: SendPiece,
) -> Response | None:
    is_gone = context.client_gone.is_set
    running = await admission.enter(request.priority, request.deadline, is_gone)
    context.was_admitted = True
    # A read is given up without its client; a write is carried through.
    is_abandoned = is_gone if request.is_read else deadlines.never
    lock_wait_s = settings.LOCK_WAITS_S["read" if request.is_read else "write"]
    deadline = deadlines.Deadline(request.deadline, is_abandoned, lock_wait_s)
    began, response = monotonic(), None
    try:
        if body:
            body.seek(0)
        environ = build_environ(request.scope, body or BytesIO())  # type: ignore[arg-type]
        loop, ids = asyncio.get_running_loop(), request_ids.get()
        call = partial(_call_django, environ, deadline, ids, context, send_piece, loop)
        response = await loop.run_in_executor(pool, call)
    finally:
        # How long a failure took, a wait for a lock say, tells nothing about the load.
        has_failed = response is not None and response.status >= 500
        took_s = None if has_failed else monotonic() - began
        admission.leave(request.priority, took_s, running)
    if context.is_streamed_by_thread:
        await send_piece({"type": "http.response.body"})
    return response


def _call_django(
    environ: Any,
    deadline: deadlines.Deadline,
    ids: RequestIds,
    context: RequestContext,
    send_piece: SendPiece,
    loop: asyncio.AbstractEventLoop,
) -> Response | None:
    """Run in a thread. Return the response unless it is streamed."""
    # In the context of the thread: in a copy of the event loop's, Django would make its
    # caches anew for each request, and with them the clients of Redis.
    deadlines.current.set(deadline)
    request_ids.set(ids)
    status, tags = 0, ""
    # Each request that a shared response answers has an id of its own.
    id_header = HEADER_BYTES, ids.request_id.encode()
    headers: Headers = [] if context.is_shared else [id_header]

    def start_response(line: str, fields: list[tuple[str, str]], _: Any = None) -> Any:
        nonlocal status, tags
        status = int(line[:3])
        for name, value in fields:
            if name == TAGS:
                tags = value
            else:
                field = name.lower().encode("latin-1"), value.encode("latin-1")
                headers.append(field)

    def send(message: Message) -> None:
        asyncio.run_coroutine_threadsafe(send_piece(message), loop).result()

    with closing(django(environ, start_response)) as content:
        if not context.is_streamed_by_thread:
            body = b"".join(content)
            of_replica = context.as_of, context.is_stale
            return Response(status, headers, tags, body, *of_replica)
        start = {"type": "http.response.start", "status": status}
        send({**start, "headers": headers})
        if environ["REQUEST_METHOD"] != "HEAD":
            for piece in content:
                send({"type": "http.response.body", "body": piece, "more_body": True})
                if context.client_gone.is_set():
                    break
    return None


async def _send_piece(send: Send, context: RequestContext, message: Message) -> None:
    """Send, and never fail: a thread goes on to the end of what it does anyway."""
    if context.client_gone.is_set():
        return
    try:
        async with asyncio.timeout(IDLE_S):
            await send(message)
    except Exception:  # noqa: BLE001 - whatever it was, nothing gets through
        context.client_gone.set()


@asynccontextmanager
async def watched(receive: Receive, context: RequestContext) -> AsyncIterator[None]:
    """Watch for the disconnect of the client; all has to be received by now."""
    context.gone = asyncio.ensure_future(until_gone(receive))
    context.gone.add_done_callback(lambda _: context.client_gone.set())
    try:
        yield
    finally:
        context.gone.cancel()
        context.client_gone.set()


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
