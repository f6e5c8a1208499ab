"""Asking Django: its WSGI handler in a pool of threads, and what it does later.

Django's own ASGI handler costs about three times as much for synchronous views. A
thread is for Django alone: bodies are received before one is taken, one that streams
to a client who has gone, or does not read, is given back, and answers that take long
(`later.py`) go on without any.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import IO, Any

from a2wsgi.wsgi import WSGIMiddleware, WSGIResponder
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from resilient_site import wsgi  # noqa: F401 - sets Django up
from resilient_site.edge.admission import Admission
from resilient_site.edge.bodies import IDLE_S, replay
from resilient_site.edge.incoming import Incoming, Kind
from resilient_site.errors import SiteError
from resilient_site.later import (
    CUT_KEY,
    SCOPE_KEY,
    STREAM_MAX_S,
    Exchange,
    Message,
    Receive,
    Send,
    Stream,
    Wait,
    held,
    send_pieces,
)
from resilient_site.resilience import deadlines


class Django(WSGIHandler):
    """Django, asked how its response goes on before that is begun.

    What the handler returns need not be the response: Sentry wraps it.
    """

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        exchange: Exchange = request.META["asgi.scope"][SCOPE_KEY]
        return exchange.note(super().get_response(request))


class Stoppable:
    """A streamed response that ends when its client has gone."""

    def __init__(self, response: Any, gone: Event) -> None:
        self.response, self.gone = response, gone

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self.response)
        while not self.gone.is_set():
            try:
                yield next(pieces)
            except StopIteration:
                return

    def close(self) -> None:
        self.response.close()


django = Django()


def handler(environ: Any, start_response: Any) -> Any:
    response = django(environ, start_response)
    exchange: Exchange = environ["asgi.scope"][SCOPE_KEY]
    if not exchange.is_streamed_by_thread:
        return response
    if environ["REQUEST_METHOD"] == "HEAD":
        response.close()
        return []
    return Stoppable(response, exchange.client_gone)


class Responder(WSGIResponder):
    """Passes on a whole answer at once, when its thread is done with it.

    To hand it over piece by piece, the thread would wait for the event loop each time.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.exchange: Exchange = scope[SCOPE_KEY]
        self.whole: list[Any] = []
        await super().__call__(scope, receive, send)
        for message in self.whole:
            await send(message)

    def send(self, message: Any) -> None:
        """Called in the thread."""
        if self.exchange.is_streamed_by_thread:
            super().send(message)
        else:
            self.whole.append(message)


class Threads(WSGIMiddleware):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        responder = Responder(self.app, self.executor, self.send_queue_size)
        await responder(scope, receive, send)


threads = Threads(handler, workers=settings.WEB_THREADS)
admission = Admission(settings.WEB_THREADS, settings.ADMISSION)


async def ask(
    request: Incoming,
    kind: Kind,
    body: IO[bytes] | None,
    receive: Receive | None,
    send: Send,
) -> Exchange:
    """Put the request to Django, then go on with what it left to do later.

    Raises Refused if it is not let in. Without `receive` nobody can go away.
    """
    scope = request.scope
    exchange = scope[SCOPE_KEY] = Exchange(scope.get(CUT_KEY, _nothing))
    gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    if receive:
        gone = asyncio.ensure_future(_watch(receive, exchange.client_gone))
    promised: list[Message] = []
    send = _guard(send, exchange, promised)
    try:
        later = await _in_thread(request, kind, body, send)
        if isinstance(later, Wait):
            await held.run(later.until(), gone, later.timeout_s)
            if gone.done():
                return exchange
            exchange.waited_for = later.token
            request.begin_anew()
            try:
                later = await _in_thread(request, kind, body, send)
            except SiteError:
                # What was done before the wait is done: nobody may hear otherwise.
                for message in promised:
                    await send(message)
                return exchange
        if isinstance(later, Stream):
            if request.method != "HEAD":
                pieces = send_pieces(later, send, exchange)
                await held.run(pieces, gone, STREAM_MAX_S)
            await send({"type": "http.response.body"})
    finally:
        exchange.client_gone.set()
        gone.cancel()
    return exchange


async def _in_thread(
    request: Incoming, kind: Kind, body: IO[bytes] | None, send: Send
) -> Stream | Wait | None:
    exchange: Exchange = request.scope[SCOPE_KEY]
    running = await admission.enter(kind, request.deadline, exchange.client_gone.is_set)
    # What is only read need not be read for nobody; a write is carried through.
    is_abandoned = exchange.client_gone.is_set if request.is_safe else deadlines.never
    deadlines.begin(deadlines.Deadline(request.deadline, is_abandoned))
    began = time.monotonic()
    try:
        await threads(request.scope, replay(body), send)
    finally:
        admission.leave(kind, time.monotonic() - began, running)
    return exchange.take()


def _nothing() -> None:
    pass


async def _watch(receive: Receive, gone: Event) -> None:
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()


def _guard(send: Send, exchange: Exchange, promised: list[Message]) -> Send:
    async def guarded(message: Message) -> None:
        # The thread ends its answer as if it were read.
        if exchange.client_gone.is_set():
            return
        if exchange.withholds(message):
            if isinstance(exchange.later, Wait):
                promised.append(message)
            return
        try:
            await asyncio.wait_for(send(message), IDLE_S)
        # Must not get out: a2wsgi would go on filling a queue nobody empties.
        except TimeoutError:
            exchange.give_up()
        except Exception:  # noqa: BLE001 - whatever it was, nothing gets through
            exchange.client_gone.set()

    return guarded
