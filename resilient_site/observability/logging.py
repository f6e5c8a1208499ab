"""Logging: structlog renders every record, and each process writes whole lines.

What fails is the reader of standard error: it stops, or is slower than the site. No
request waits for it: in a process that serves, a thread writes from a bounded queue,
and lines that find it full are dropped and counted. A command, which has no such
thread, waits one second for each line. A JSON line is at most PIPE_BUF long and written
in one call, so that lines of several processes in one pipe do not mix; a long console
line may.
"""

import atexit
import json
import logging
import os
import re
import select
import sys
import time
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict

from resilient_site.observability.redaction import may_hold_secret, redact
from resilient_site.observability.request_id import current_request_id, current_trace_id

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = select.PIPE_BUF - 1
MAX_QUEUED = 2_000
WRITE_TIMEOUT_MS = 1_000
FLUSH_TIMEOUT_S = 1.0
# The thread collects lines for so long: one that wakes up for each line would compete
# with those that serve requests.
PAUSE_S = 0.01
# Extras of Django and uvicorn that repeat what the message says.
IGNORED_EXTRAS = ("request", "server_time", "color_message")
# Clients send them in paths: terminals obey some, and others begin a new line.
_control_characters = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def line_formatter(style: str) -> ProcessorFormatter:
    """Return the formatter of the site's lines: style `json` or `console`."""
    to_text = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False
    )
    # For libraries that log by structlog, such as stamina.
    structlog.configure(
        processors=[ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    return ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_context,
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact_event,
            *([render_json] if style == "json" else [escape_control, to_text]),
        ],
    )


def add_context(_: Any, __: str, event: EventDict) -> EventDict:
    """Add process, request and trace; leave out what would be there twice."""
    event["process"] = event["_record"].process
    if request_id := current_request_id():
        event.setdefault("request_id", request_id)
    if trace_id := current_trace_id():
        event.setdefault("trace_id", trace_id)
    for name in IGNORED_EXTRAS:
        event.pop(name, None)
    return event


def redact_event(_: Any, __: str, event: EventDict) -> EventDict:
    return redact(event) if may_hold_secret(to_json(event)) else event


def escape_control(_: Any, __: str, event: EventDict) -> EventDict:
    """Escape control characters in texts; a traceback keeps its line ends."""
    for key, text in event.items():
        if isinstance(text, str) and not text.isprintable():
            lines = text.split("\n") if key == "exception" else [text]
            event[key] = "\n".join(
                _control_characters.sub(lambda found: ascii(found[0])[1:-1], line)
                for line in lines
            )
    return event


def render_json(_: Any, __: str, event: EventDict) -> str:
    """Render on one line, shortened until it fits into MAX_LINE_BYTES."""
    line, limit = to_json(event), MAX_LINE_BYTES
    while len(line.encode()) >= MAX_LINE_BYTES and limit > 20:
        limit = limit * 3 // 4
        line = to_json({key: shorten(value, limit) for key, value in event.items()})
    return line


def to_json(event: EventDict) -> str:
    try:
        line = orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, or a number of more than 64 bits
        return json.dumps(event, default=repr)
    text = line.decode()
    if text.isprintable():
        return text
    return _control_characters.sub(lambda found: rf"\u{ord(found[0]):04x}", text)


def shorten(value: Any, limit: int) -> Any:
    """Cut the middle out of a long text: the end of a traceback says most."""
    text = value if isinstance(value, str) else repr(value)
    half = limit // 2
    return value if len(text) <= limit else f"{text[:half]} … {text[-half:]}"


class LineHandler(QueueHandler):
    """Renders lines where they are logged, and queues them once a thread writes."""

    queue: SimpleQueue[str]

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__(SimpleQueue())
        self.descriptor = descriptor
        self.dropped = self._unreported = 0
        os.register_at_fork(after_in_child=self._reset)

    def start(self) -> None:
        """Write in a thread of this process from now on."""
        if self.listener is None:
            self.listener = LineListener(self.queue, self)
            self.listener.start()
            atexit.register(self.flush)

    def flush(self) -> None:
        """Wait until all lines are written, but not for a reader that has stopped."""
        end = time.monotonic() + FLUSH_TIMEOUT_S
        while not self.queue.empty() and time.monotonic() < end:
            time.sleep(PAUSE_S)
        time.sleep(PAUSE_S)  # for the last one, which has left the queue

    def _reset(self) -> None:
        # A forked process inherits neither the thread nor what it has to write.
        self.queue, self.listener = SimpleQueue(), None
        self.dropped = self._unreported = 0

    def prepare(self, record: logging.LogRecord) -> str:
        return f"{self.format(record)}\n"

    def enqueue(self, line: Any) -> None:
        if self.listener is None:
            self.write(line, WRITE_TIMEOUT_MS)
        elif self.queue.qsize() >= MAX_QUEUED:
            self._drop()
        else:
            self.queue.put(line)
            if self._unreported and self.queue.qsize() < MAX_QUEUED // 2:
                number, self._unreported = self._unreported, 0
                logger.warning(
                    "%d log lines were dropped: the queue was full.", number,
                    extra={"event_name": "log_lines_dropped", "number": number},
                )  # fmt: skip

    def write(self, line: str, timeout_ms: int | None = None) -> None:
        """Write the line in one call, as soon as the reader has room for it."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        try:
            if timeout_ms is not None and not poll.poll(timeout_ms):
                raise BlockingIOError
            os.write(self.descriptor, line.encode(errors="backslashreplace"))
        except BlockingIOError:
            self._drop()
        except OSError:
            pass  # the reader has ended, or the disk is full

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def handleError(self, record: logging.LogRecord) -> None:
        """Log that a record cannot be rendered; the standard prints a traceback."""
        text = f"A log record cannot be rendered: {record.msg!r} ({sys.exception()!r})"
        fields = {"name": record.name, "levelname": "ERROR", "msg": text}
        with suppress(Exception):
            self.enqueue(self.prepare(logging.makeLogRecord(fields)))


class LineListener(QueueListener):
    """Writes the queued lines of a handler, in a thread."""

    queue: SimpleQueue[str]
    handlers: tuple[LineHandler]

    def dequeue(self, block: bool) -> Any:
        if self.queue.empty():
            time.sleep(PAUSE_S)
        return self.queue.get(block)

    def handle(self, line: Any) -> None:
        self.handlers[0].write(line)


def line_handler() -> LineHandler | None:
    """Return the handler that settings.LOGGING has made, if it is in use."""
    handler = logging.getHandlerByName("stderr")
    return handler if isinstance(handler, LineHandler) else None


def start_listener() -> None:
    """Have log lines written by a thread, in a process that must not wait for it."""
    if handler := line_handler():
        handler.start()
