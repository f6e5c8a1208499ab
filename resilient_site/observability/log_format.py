"""How a log line looks: JSON for machines, text for people, secrets in neither."""

import json
import logging
import re
import select
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson

from resilient_site.observability.redaction import mask, may_hold_secret
from resilient_site.observability.request_id import current_request_id, current_trace_id

# What a pipe takes in one piece from several processes (PIPE_BUF).
LINE_MAX_BYTES = select.PIPE_BUF - 1
SHORTEST = 200
# Beside what a record has by itself, its `extra` is told as far as it is plain.
PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
LEFT_OUT = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
# And of Django's records what would be told twice.
LEFT_OUT |= {"request", "server_time", "color_message"}
# Clients send them in paths: a terminal would obey some, and others begin a line.
_control_characters = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

type Event = dict[str, Any]


class LineFormatter(logging.Formatter):
    def __init__(self, style: str) -> None:
        super().__init__()
        self._render = _as_json if style == "json" else _as_text

    def format(self, record: logging.LogRecord) -> str:
        return self._render(self._told(record))

    def _told(self, record: logging.LogRecord) -> Event:
        moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        event: Event = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": f"{moment.isoformat(timespec='microseconds')}Z",
        }
        for name, value in vars(record).items():
            if name not in LEFT_OUT and isinstance(value, PLAIN):
                event[name] = value
        event["process"] = record.process
        if request_id := current_request_id():
            event.setdefault("request_id", request_id)
        if trace_id := current_trace_id():
            event.setdefault("trace_id", trace_id)
        if record.exc_info and record.exc_info[0]:
            event["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = record.stack_info
        return event


def _as_text(event: Event) -> str:
    return console()(None, "", _inert(mask(event)))


@cache
def console() -> Callable[[None, str, Event], str]:
    """Return what makes text of an event, loaded at its first use: it takes long."""
    import structlog

    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False
    )


def _inert(event: Event) -> Event:
    def escape(found: re.Match[str]) -> str:
        return ascii(found[0])[1:-1]

    for key, text in event.items():
        if isinstance(text, str):
            lines = text.split("\n") if key == "exception" else [text]
            event[key] = "\n".join(_control_characters.sub(escape, x) for x in lines)
    return event


def _as_json(event: Event) -> str:
    line = _dumps(event)
    if may_hold_secret(line.decode()):
        event = mask(event)
        line = _dumps(event)
    while len(line) > LINE_MAX_BYTES:
        texts = {key: text for key, text in event.items() if isinstance(text, str)}
        longest = max(texts, key=lambda key: len(texts[key]), default="")
        text = texts.get(longest, "")
        if len(text) <= SHORTEST:
            event = {key: text[:SHORTEST] for key, text in texts.items()}
            return _dumps(event).decode()
        # Of a traceback the end says most.
        half = max(SHORTEST, len(text) * 3 // 4) // 2
        event[longest] = f"{text[:half]} … {text[-half:]}"
        line = _dumps(event)
    return line.decode()


def _dumps(event: Any) -> bytes:
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS
    try:
        return orjson.dumps(event, default=str, option=option)
    except TypeError:  # half a character, or a number of more than 64 bits
        plain = json.dumps(
            event, default=str, ensure_ascii=False, separators=(",", ":")
        )
        return plain.encode(errors="replace")
