"""The site as an ASGI application: Django's WSGI handler in a pool of threads.

Django's own ASGI handler costs about three times as much for synchronous views. A
thread is for Django alone: bodies are received before one is taken, one that streams
to a client who has gone, or does not read, is given back, and answers that take long
(`later.py`) go on without any.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from threading import Event
from typing import IO, Any

from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from resilient_site import wsgi  # noqa: F401 - sets Django up
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

logger = logging.getLogger(__name__)

# A client that sends or reads nothing for so long is given up.
IDLE_S = 30
BODY_IN_MEMORY_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024
LENGTH_DIGITS = 16
TAKES_FILES = ("/items/import/", "/jobs/new/", "/api/v1/jobs")
_SESSION = f"{settings.SESSION_COOKIE_NAME}=".encode()


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


threads = WSGIMiddleware(handler, workers=settings.WEB_THREADS)


async def application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await threads(scope, receive, send)  # type: ignore[arg-type]
        return
    with SpooledTemporaryFile(BODY_IN_MEMORY_BYTES) as body:
        if _is_acceptable(scope):
            try:
                complete = await _receive_body(receive, body)
            except TimeoutError:
                await _refuse(send, 408)
                return
            except OSError:
                logger.exception("A body could not be kept.")
                await _refuse(send, 503)
                return
            if not complete:
                return
        await _answer(scope, body, receive, send)


async def _answer(
    scope: Message, body: IO[bytes], receive: Receive, send: Send
) -> None:
    """Ask Django, then go on with what it left to do later."""
    exchange = scope[SCOPE_KEY] = Exchange(scope.get(CUT_KEY, lambda: None))
    gone = asyncio.create_task(_watch(receive, exchange.client_gone))
    send = _guard(send, exchange)
    try:
        later = await _ask_django(scope, body, send)
        if isinstance(later, Wait):
            await held.run(later.until(), gone, later.timeout_s)
            if gone.done():
                return
            exchange.waited_for = later.token
            later = await _ask_django(scope, body, send)
        if isinstance(later, Stream):
            if scope["method"] != "HEAD":
                pieces = send_pieces(later, send, exchange)
                await held.run(pieces, gone, STREAM_MAX_S)
            await send({"type": "http.response.body"})
    finally:
        exchange.client_gone.set()
        gone.cancel()


async def _ask_django(
    scope: Message, body: IO[bytes], send: Send
) -> Stream | Wait | None:
    body.seek(0)
    await threads(scope, _replay(body), send)  # type: ignore
    exchange: Exchange = scope[SCOPE_KEY]
    return exchange.take()


def _is_acceptable(scope: Message) -> bool:
    """Tell whether Django will read the body; it refuses the others unread.

    Only who says that he is signed in may send the size of an import, as a form, and
    only there.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    known = b"authorization" in headers or _SESSION in headers.get(b"cookie", b"")
    is_form = headers.get(b"content-type", b"").startswith(b"multipart/form-data")
    large = known and is_form and scope["path"].startswith(TAKES_FILES)
    limit = settings.IMPORT_MAX_BYTES if large else settings.MAX_BODY_BYTES
    return length.isdigit() and len(length) < LENGTH_DIGITS and int(length) <= limit


async def _receive_body(receive: Receive, body: IO[bytes]) -> bool:
    """Return False if the client went away; raise TimeoutError if it stopped."""
    more = True
    while more:
        message = await asyncio.wait_for(receive(), IDLE_S)
        if message["type"] == "http.disconnect":
            return False
        body.write(message.get("body", b""))
        more = message.get("more_body", False)
    return True


async def _refuse(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _replay(body: IO[bytes]) -> Receive:
    async def receive() -> Message:
        piece = body.read(PIECE_BYTES)
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    return receive


async def _watch(receive: Receive, gone: Event) -> None:
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()


def _guard(send: Send, exchange: Exchange) -> Send:
    async def guarded(message: Message) -> None:
        # The thread ends its answer as if it were read.
        if exchange.client_gone.is_set() or exchange.withholds(message):
            return
        try:
            await asyncio.wait_for(send(message), IDLE_S)
        # Must not get out: a2wsgi would go on filling a queue nobody empties.
        except TimeoutError:
            exchange.give_up()
        except Exception:  # noqa: BLE001 - whatever it was, nothing gets through
            exchange.client_gone.set()

    return guarded
