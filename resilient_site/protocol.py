"""How clients are heard: Uvicorn's protocol, with limits to what each may cost.

What is not plainly one HTTP request is refused: a proxy in front of this process must
never read it in another way.
"""

import asyncio
import logging
from typing import Any

import httptools
import orjson
from django.http import HttpRequest
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from resilient_site import heads
from resilient_site.crowd import crowd
from resilient_site.edge import express
from resilient_site.errors import PROBLEM_TYPE, Invalid, Overloaded, SiteError, problem
from resilient_site.later import CUT_KEY
from resilient_site.requestid import HEADER, begin_request

logger = logging.getLogger(__name__)

# Requests that wait behind another one in a connection.
MOST_PIPELINED = 100
# For so long a client may go on talking who was told that nobody listens. To close at
# once would throw away the answer before he has read it.
LINGER_S = 5


class HeadTooSlow(SiteError):
    status = 408
    code = "too_slow"
    detail = "The request did not come in time."


class Lingering:
    """The transport of an answer to a request whose body is still on its way."""

    def __init__(self, protocol: "Protocol") -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.linger


class Protocol(HttpToolsProtocol):
    """Tells every request that its client has gone, and lets it cut him off.

    Uvicorn's own tells the latest: a long answer with a request waiting behind it
    would go on for nobody. And it closes only when all that it sent has been read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycles: list[Any] = []
        self.may_be_express = self.is_from_proxy = False
        # What a request is for that has come but for its end.
        self.waiting_app: Any = None
        # Since when a request is expected, or has been coming without its head's end.
        self.head_began: float | None = None
        self.head_bytes = 0
        self.in_head = self.in_body = False
        # Whether the connection may go on once the body has come.
        self.may_go_on = False
        self.is_heard = True
        self.lingers_until: float | None = None
        self.refusal: SiteError | None = None

    def is_idle(self) -> bool:
        """Tell whether it owes no answer."""
        return self.cycle is None or self.cycle.response_complete

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_began = self.loop.time()
        # Those that Uvicorn's middleware for proxies trusts.
        proxies = getattr(self.app, "trusted_hosts", ())
        self.is_from_proxy = self.client is not None and self.client[0] in proxies
        if not crowd.let_in(self, len(self.connections)):
            self.refuse(Overloaded("There are too many connections."))

    def connection_lost(self, exc: Exception | None) -> None:
        crowd.forget(self)
        for cycle in self.cycles:
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_heard:
            return
        self._unset_keepalive_if_required()
        was_in_head = self.in_head or self.cycle is None
        if self.head_began is None and not self.in_body:
            self.head_began = self.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_heard = False  # what follows would be in another protocol
        except httptools.HttpParserError as error:
            why = error.__context__
            self.refuse(why if isinstance(why, SiteError) else Invalid())
        else:
            if was_in_head and self.in_head:
                self.head_bytes += len(data)
                if self.head_bytes > heads.MOST_BYTES:
                    self.refuse(heads.HeadTooLarge())

    # --- the parser's findings

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head, self.head_bytes = True, 0
        if self.head_began is None:
            self.head_began = self.loop.time()

    def on_headers_complete(self) -> None:
        self.in_head = False
        parser = self.parser
        has_body = heads.check(
            parser.get_method(), self.url, parser.get_http_version(), self.headers
        )
        if len(self.pipeline) >= MOST_PIPELINED:
            raise Invalid("There are too many requests at once.")
        self.may_be_express = not has_body
        super().on_headers_complete()
        self.may_be_express = False
        crowd.requests += 1
        self.head_began, self.in_body = None, True
        self.headers = []  # what still comes are trailers: they count for nothing
        self.cycles = [cycle for cycle in self.cycles if not cycle.response_complete]
        self.cycles.append(self.cycle)
        scope: dict[str, Any] = self.cycle.scope  # type: ignore[assignment]
        scope[CUT_KEY] = self.transport.abort
        if self.parser.should_upgrade() or crowd.is_leaving:
            self.cycle.keep_alive = False
        if has_body:
            self._expect_body()

    def _expect_body(self) -> None:
        """Let an answer before the end of the body be the last one."""
        self.may_go_on = self.cycle.keep_alive
        self.cycle.keep_alive = False
        self.cycle.transport = Lingering(self)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.in_body = False
        if self.cycle.transport is not self.transport:
            self.cycle.transport = self.transport
            if not self.cycle.response_started:
                self.cycle.keep_alive = self.may_go_on and not crowd.is_leaving
        crowd.forget(self)
        if self.waiting_app is not None:
            app, self.waiting_app = self.waiting_app, None
            if not self._answer_at_once():
                super()._start_asgi_task(self.cycle, app)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self.may_be_express:
            self.waiting_app = app  # until the end of the request, which is next
        else:
            super()._start_asgi_task(cycle, app)

    def _answer_at_once(self) -> bool:
        cycle = self.cycle
        if not cycle.keep_alive or self.access_log or self.flow.write_paused:
            return False
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        defaults = self.server_state.default_headers
        try:
            answer = express.answer(scope, self.is_from_proxy, defaults)
        except Exception:
            # The parser would take it for a fault of the client, and answer nothing.
            logger.exception("The short way failed, so the long one is taken.")
            return False
        if answer is None:
            return False
        cycle.response_started = cycle.response_complete = True
        self.transport.write(answer)
        self.on_response_complete()
        return True

    # --- answers

    def on_response_complete(self) -> None:
        if self.lingers_until is not None:
            return
        super().on_response_complete()
        if self.transport.is_closing() or not self.is_idle():
            return
        if self.refusal:
            self._bid_farewell(self.refusal)
        else:
            if self.head_began is not None:
                self.head_began = self.loop.time()
            crowd.expect(self)

    def leave(self) -> None:
        """Let the next answer that has not begun be the last one."""
        if not self.is_idle() and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def refuse(self, error: SiteError) -> None:
        """Hear no more, and say why, when the answers that are owed have been given."""
        self.is_heard, self.refusal, self.head_began = False, error, None
        if self.in_body:
            self._give_up_body()
        elif self.is_idle():
            self._bid_farewell(error)

    def _give_up_body(self) -> None:
        """Its answer cannot be waited for; nor can it be told in the middle of one."""
        running = [cycle for cycle in self.cycles if not cycle.response_complete]
        for cycle in running:
            cycle.disconnected = True
            cycle.message_event.set()
        if len(running) == 1 and not running[0].response_started and self.refusal:
            self._bid_farewell(self.refusal)
        else:
            self.transport.abort()

    def _bid_farewell(self, error: SiteError) -> None:
        self.transport.write(farewell(error))
        self.linger()

    def linger(self) -> None:
        """Close when the client has seen the end, or has had time to."""
        if self.lingers_until is not None or self.transport.is_closing():
            return
        self.is_heard = False
        self.head_began = None
        self.lingers_until = self.loop.time() + LINGER_S
        self.flow.resume_reading()
        self.transport.write_eof()

    def give_up_waiting(self) -> None:
        """End it: no request has come in time."""
        if self.in_head:
            self.refuse(HeadTooSlow())
        else:
            self.transport.close()


def farewell(error: SiteError) -> bytes:
    """Return the whole answer to a request that gets no further."""
    request_id = begin_request(None)
    members = problem(HttpRequest(), error)
    del members["instance"]
    body = orjson.dumps(members)
    headers = {
        "content-type": PROBLEM_TYPE,
        "content-length": len(body),
        "cache-control": "no-store",
        "connection": "close",
        HEADER.lower(): request_id,
    }
    if error.retry_after_s is not None:
        headers["retry-after"] = error.retry_after_s
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body
