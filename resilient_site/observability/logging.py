"""Logging: structlog renders every record, and each process writes whole lines.

What fails is the reader of standard error: it stops, or is slower than the site. No
request waits for it: in a process that serves, a thread writes from a bounded queue,
and lines that find it full are dropped and counted. A command, which has no such
thread, waits one second for each line. A JSON line is at most PIPE_BUF long and written
in one call, so that lines of several processes in one pipe do not mix; a long console
line may.
"""

import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any, cast

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict

from resilient_site.observability.redaction import may_hold_secret, redact, shorten
from resilient_site.observability.request_id import (
    current_own_id,
    current_request_id,
    current_trace_id,
    offered_id,
)

logger = logging.getLogger(__name__)

STDERR = 2
MAX_LINE_BYTES = select.PIPE_BUF - 1
MAX_QUEUED = 2_000
WRITE_TIMEOUT_MS = 1_000
FLUSH_TIMEOUT_S = 1.0
# The thread collects lines for so long: one that wakes up for each line would compete
# with those that serve requests.
PAUSE_S = 0.01
# Of warnings and errors with the same text: so many within a period have a line.
SAME_MAX = 3
SAME_PERIOD_S = 60.0
KEY_CHARACTERS = 200
KEYS_MAX = 1_000
to_json = json.JSONEncoder(separators=(",", ":"), default=repr).encode


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
    if offered_id():
        event.setdefault("own_request_id", current_own_id())
    if trace_id := current_trace_id():
        event.setdefault("trace_id", trace_id)
    # Extras of Django and uvicorn that repeat what the message says.
    for name in ("request", "server_time", "color_message"):
        event.pop(name, None)
    return event


def redact_event(_: Any, __: str, event: EventDict) -> EventDict:
    return redact(event) if may_hold_secret(repr(event)) else event


def escape_control(_: Any, __: str, event: EventDict) -> EventDict:
    """Escape what terminals obey or take for a new line, as clients may send it."""
    for key, text in event.items():
        if isinstance(text, str) and not text.isprintable():
            lines = text.split("\n") if key == "exception" else [text]
            event[key] = "\n".join(repr(line)[1:-1] for line in lines)
    return event


def render_json(_: Any, __: str, event: EventDict) -> str:
    """Render on one line in ASCII, shortened until it fits into MAX_LINE_BYTES."""
    line, limit = to_json(event), MAX_LINE_BYTES
    while len(line) >= MAX_LINE_BYTES and limit > 20:
        limit = limit * 3 // 4
        line = to_json({key: shorten(value, limit) for key, value in event.items()})
    return line


class Throttle(logging.Filter):
    """Passes the first warnings and errors that say the same, and counts the others.

    What clients do, and what happens to each of many requests, must not fill the log.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # When the period of a text began, and how often it was logged since.
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        try:
            key = record.name, record.getMessage()[:KEY_CHARACTERS]
        except Exception:  # noqa: BLE001 - the handler says what is wrong with it
            return True
        began, count = self._seen.pop(key, (self._clock(), 0))
        if self._clock() - began >= SAME_PERIOD_S:
            if count > SAME_MAX:
                record.repeated = count - SAME_MAX
            began, count = self._clock(), 0
        self._seen[key] = began, count + 1
        if len(self._seen) > KEYS_MAX:
            with suppress(RuntimeError, StopIteration):  # another thread does the same
                self._seen.pop(next(iter(self._seen)), None)
        return count < SAME_MAX


class LineHandler(QueueHandler):
    """Renders lines where they are logged, and queues them once a thread writes."""

    # The thread sets an event when it has written the lines before it.
    queue: SimpleQueue[bytes | threading.Event]

    def __init__(self) -> None:
        super().__init__(SimpleQueue())
        self.addFilter(Throttle())
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A forked process inherits neither the thread nor what it has to write.
        self.queue = SimpleQueue()
        self.has_thread = False
        self.dropped = self.reported = 0

    def start(self) -> None:
        """Write in a thread of this process from now on."""
        if not self.has_thread:
            self.has_thread = True
            threading.Thread(target=self._run, name="logging", daemon=True).start()

    def _run(self) -> None:
        while True:
            if self.queue.empty():
                time.sleep(PAUSE_S)
            line = self.queue.get()
            if isinstance(line, bytes):
                self._write(line, timeout_ms=None)
            else:
                line.set()

    def flush(self) -> None:
        """Wait until all lines are written, but not for a reader that has stopped."""
        if self.has_thread:
            written = threading.Event()
            self.queue.put(written)
            written.wait(FLUSH_TIMEOUT_S)

    def prepare(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def enqueue(self, line: Any) -> None:
        if not self.has_thread:
            self._write(line, WRITE_TIMEOUT_MS)
        elif self.queue.qsize() < MAX_QUEUED:
            self.queue.put(line)
        else:
            self.dropped += 1

    def _write(self, line: bytes, timeout_ms: int | None) -> None:
        """Write the line in one call, as soon as the reader has room for it."""
        poll = select.poll()
        poll.register(STDERR, select.POLLOUT)
        with suppress(OSError):  # the reader has ended, or the disk is full
            if poll.poll(timeout_ms):
                os.write(STDERR, line)
                self._report_dropped()
                return
        self.dropped += 1

    def _report_dropped(self) -> None:
        """Log the number of dropped lines, once the reader has taken all others."""
        if self.queue.empty() and (number := self.dropped - self.reported):
            self.reported = self.dropped
            extra = {"event_name": "log_lines_dropped", "number": number}
            text = "%d log lines were dropped: their reader did not take them in time."
            logger.warning(text, number, extra=extra)

    def handleError(self, record: logging.LogRecord) -> None:
        """Log that a record cannot be rendered; the standard prints a traceback."""
        with suppress(Exception):
            text = (
                f"A log record cannot be rendered: {record.msg!r} ({sys.exception()!r})"
            )
            fields = {"name": record.name, "levelname": "ERROR", "msg": text}
            self.enqueue(self.prepare(logging.makeLogRecord(fields)))


def line_handler() -> LineHandler:
    """Return the handler that settings.LOGGING has made."""
    return cast(LineHandler, logging.getHandlerByName("stderr"))
