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

from resilient_site.edge import fast_path, request_validation
from resilient_site.edge.connection_limiter import crowd
from resilient_site.edge.streaming import CUT_KEY
from resilient_site.errors import PROBLEM_TYPE, Invalid, Overloaded, SiteError, problem
from resilient_site.observability.request_id import HEADER, begin_request

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
        self.is_from_proxy = False
        # Of a request that has come but for its end.
        self.head: request_validation.Head | None = None
        # Since when a request is expected, or has been coming without its head's end.
        self.head_began: float | None = None
        self.head_bytes = 0
        self.in_head = self.in_body = self.has_asked = False
        self.idle_since = 0.0
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
        crowd.on_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        crowd.forget(self)
        for cycle in self.cycles:
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_heard:
            return
        was_in_head = self.in_head or not self.has_asked
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
                if self.head_bytes > request_validation.MOST_BYTES:
                    self.refuse(request_validation.HeadTooLarge())

    # --- the parser's findings

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.in_head, self.head_bytes = True, 0
        if self.head_began is None:
            self.head_began = self.loop.time()

    def on_headers_complete(self) -> None:
        self.in_head, self.has_asked = False, True
        parser = self.parser
        head = request_validation.check(
            parser.get_method(), self.url, parser.get_http_version(), self.headers
        )
        if len(self.pipeline) >= MOST_PIPELINED:
            raise Invalid("There are too many requests at once.")
        crowd.requests += 1
        self.head_began = None
        if head.has_body or not self.is_idle():
            self._begin(head.has_body)
        else:
            self.head = head  # until the end of the request, which is next

    def _begin(self, has_body: bool) -> None:
        """Put the request to the application."""
        self._unset_keepalive_if_required()
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        self.in_body = True
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
        if self.head is not None:
            head, self.head = self.head, None
            if self._answer_at_once(head):
                return
            self._begin(False)
        super().on_message_complete()
        self.in_body = False
        if self.cycle.transport is not self.transport:
            self.cycle.transport = self.transport
            if not self.cycle.response_started:
                self.cycle.keep_alive = self.may_go_on and not crowd.is_leaving
        crowd.forget(self)

    def _answer_at_once(self, head: request_validation.Head) -> bool:
        if (
            not head.is_plain
            or not self.parser.should_keep_alive()
            or self.parser.should_upgrade()
            or crowd.is_leaving
            or self.access_log
            or self.flow.write_paused
        ):
            return False
        scheme, fields = str(self.scheme), head.values
        if self.is_from_proxy and b"x-forwarded-proto" in fields:
            scheme = fields[b"x-forwarded-proto"].decode("latin-1")
        method, defaults = self.parser.get_method(), self.server_state.default_headers
        try:
            answer = fast_path.answer(method, self.url, scheme, fields, defaults)
        except Exception:
            # The parser would take it for a fault of the client, and answer nothing.
            logger.exception("The short way failed, so the long one is taken.")
            return False
        if answer is None:
            return False
        self.server_state.total_requests += 1
        self.transport.write(answer)
        self._expect_next()
        return True

    def _expect_next(self) -> None:
        """Wait for the next request, but not for ever."""
        self.idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_for_next(self.timeout_keep_alive)
        crowd.forget(self)
        crowd.expect(self)

    def _wait_for_next(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close what is idle. The timer is not set anew for each request."""
        self.timeout_keep_alive_task = None
        if self.in_head or not self.is_idle():
            return  # it has a limit of its own
        left = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_for_next(left)
        else:
            super().timeout_keep_alive_handler()

    # --- answers

    def on_response_complete(self) -> None:
        if self.lingers_until is not None:
            return
        self.idle_since = self.loop.time()
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
        self._unset_keepalive_if_required()  # it would close too early
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
