"""Asking Django: its WSGI handler in a pool of threads, and what it does later.

Django's own ASGI handler costs about three times as much for synchronous views. A
thread is for Django alone: bodies are received before one is taken, one that streams
to a client who has gone, or does not read, is given back, and answers that take long
(`later.py`) go on without any.
"""

import asyncio
import time
from contextlib import suppress
from threading import Event
from typing import IO

from django.conf import settings

from resilient_site.edge.admission import Admission
from resilient_site.edge.request import Incoming, Kind
from resilient_site.edge.request_body import IDLE_S
from resilient_site.edge.streaming import (
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
from resilient_site.edge.thread_pool import call_django
from resilient_site.errors import SiteError
from resilient_site.resilience import deadlines

admission = Admission(
    settings.WEB_THREADS, settings.ADMISSION_PATIENCE_S, settings.ADMISSION
)


class ToClient:
    """The way to the client, which never fails: to its end a thread goes on anyway."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send, self._exchange = send, exchange
        self.promised: list[Message] = []

    async def __call__(self, *messages: Message) -> None:
        exchange = self._exchange
        try:
            async with asyncio.timeout(IDLE_S):
                for message in messages:
                    if exchange.client_gone.is_set():
                        return
                    if not exchange.withholds(message):
                        await self._send(message)
                    elif isinstance(exchange.later, Wait):
                        self.promised.append(message)
        except Exception:  # noqa: BLE001 - whatever it was, nothing gets through
            exchange.client_gone.set()


async def ask(
    request: Incoming,
    kind: Kind,
    body: IO[bytes] | None,
    receive: Receive,
    send: Send,
) -> Exchange:
    """Put the request to Django, then go on with what it left to do later.

    Raises Rejected, before anything is done.
    """
    scope = request.scope
    exchange = scope[SCOPE_KEY] = Exchange()
    gone = asyncio.ensure_future(_watch(receive, exchange.client_gone))
    to_client = ToClient(send, exchange)
    try:
        later = await _in_thread(request, kind, body, to_client)
        if isinstance(later, Wait):
            await held.run(later.until(), gone, later.timeout_s)
            if gone.done():
                return exchange
            exchange.waited_for = later.token
            request.begin_anew()
            try:
                later = await _in_thread(request, kind, body, to_client)
            except SiteError:
                # What was done before the wait is done: nobody may hear otherwise.
                await to_client(*to_client.promised)
                return exchange
        if isinstance(later, Stream):
            if request.method != "HEAD":
                pieces = send_pieces(later, to_client, exchange)
                await held.run(pieces, gone, STREAM_MAX_S)
            await to_client({"type": "http.response.body"})
    finally:
        exchange.client_gone.set()
        gone.cancel()
    return exchange


async def _in_thread(
    request: Incoming, kind: Kind, body: IO[bytes] | None, to_client: ToClient
) -> Stream | Wait | None:
    exchange: Exchange = request.scope[SCOPE_KEY]
    running = await admission.enter(kind, request.deadline, exchange.client_gone.is_set)
    exchange.was_let_in = True
    # What is only read need not be read for nobody; a write is carried through.
    is_abandoned = exchange.client_gone.is_set if request.is_safe else deadlines.never
    deadlines.set_deadline(deadlines.Deadline(request.deadline, is_abandoned))
    began = time.monotonic()
    try:
        answer = await call_django(request.scope, body, to_client)
    finally:
        admission.leave(kind, time.monotonic() - began, running)
    await to_client(*answer)
    return exchange.take()


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _watch(receive: Receive, gone: Event) -> None:
    with suppress(asyncio.CancelledError):
        await until_gone(receive)
        gone.set()
