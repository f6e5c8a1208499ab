"""Django's WSGI handler in a pool of threads.

An answer that is whole comes back from its thread in one step: each more between a
thread and the event loop would cost as much as a query. One that streams is passed on
piece by piece, until its client has gone.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from functools import partial
from io import BytesIO
from typing import IO, Any

from a2wsgi.wsgi import build_environ
from django import setup
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from resilient_site.edge.streaming import SCOPE_KEY, Exchange, Message, Send


class Django(WSGIHandler):
    """Django, asked how its response goes on before that is begun.

    What the handler returns need not be the response: Sentry wraps it.
    """

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        exchange: Exchange = request.META["asgi.scope"][SCOPE_KEY]
        return exchange.note(super().get_response(request))


setup()  # unless it is done
django = Django()
pool = ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="django")


async def call_django(
    scope: Message, body: IO[bytes] | None, send: Send
) -> list[Message]:
    """Let a thread make the answer; return what is left of it to be sent."""
    if body:
        body.seek(0)
    environ = build_environ(scope, body or BytesIO())  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    answer = partial(copy_context().run, Call(send, loop).answer, environ)
    return await loop.run_in_executor(pool, answer)


class Call:
    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop) -> None:
        self._to_client, self._loop = send, loop
        self._start: Message = {}

    def answer(self, environ: Any) -> list[Message]:
        exchange: Exchange = environ["asgi.scope"][SCOPE_KEY]
        with closing(django(environ, self._start_response)) as response:
            if not exchange.is_streamed_by_thread:
                body = b"".join(response)
                return [self._start, {"type": "http.response.body", "body": body}]
            self._send(self._start)
            if environ["REQUEST_METHOD"] != "HEAD":
                for piece in response:
                    self._send(
                        {"type": "http.response.body", "body": piece, "more_body": True}
                    )
                    if exchange.client_gone.is_set():
                        break
        return [{"type": "http.response.body", "body": b""}]

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Any:
        self._start = {
            "type": "http.response.start",
            "status": int(status[:3]),
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in headers
            ],
        }

    def _send(self, message: Message) -> None:
        asyncio.run_coroutine_threadsafe(self._sent(message), self._loop).result()

    async def _sent(self, message: Message) -> None:
        await self._to_client(message)
