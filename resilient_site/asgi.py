"""The site as an ASGI application: Django's WSGI handler in a pool of threads.

Django's own ASGI handler costs about three times as much for synchronous views. A
thread is for Django alone: bodies are received before one is taken, and one that
streams to a client who has gone, or does not read, is given back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from threading import Event
from typing import IO, Any

from a2wsgi import WSGIMiddleware
from django.conf import settings

from resilient_site.wsgi import application as django

logger = logging.getLogger(__name__)

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]

# A client that sends or reads nothing for so long is given up.
IDLE_S = 30
BODY_IN_MEMORY_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024
LENGTH_DIGITS = 16
_SESSION = f"{settings.SESSION_COOKIE_NAME}=".encode()


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


def handler(environ: Any, start_response: Any) -> Any:
    response = django(environ, start_response)
    if not getattr(response, "streaming", False):
        return response
    if environ["REQUEST_METHOD"] == "HEAD":
        response.close()
        return []
    return Stoppable(response, environ["asgi.scope"]["client_gone"])


threads = WSGIMiddleware(handler, workers=settings.WEB_THREADS)


async def application(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await threads(scope, receive, send)  # type: ignore[arg-type]
        return
    gone = scope["client_gone"] = Event()
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
        body.seek(0)
        watcher = asyncio.create_task(_watch(receive, gone))
        try:
            await threads(scope, _replay(body), _guard(send, gone))  # type: ignore
        finally:
            gone.set()
            watcher.cancel()


def _is_acceptable(scope: Message) -> bool:
    """Tell whether Django will read the body; it refuses the others unread.

    Only who is signed in may send the size of an import, and only to its page.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    large = scope["path"] == "/items/import/" and _SESSION in headers.get(
        b"cookie", b""
    )
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


def _guard(send: Send, gone: Event) -> Send:
    async def guarded(message: Message) -> None:
        if gone.is_set():
            return  # the thread ends its answer as if it were read
        try:
            await asyncio.wait_for(send(message), IDLE_S)
        except Exception:  # noqa: BLE001 - whatever it was, nothing gets through
            # Must not get out: a2wsgi would go on filling a queue nobody empties.
            gone.set()

    return guarded
