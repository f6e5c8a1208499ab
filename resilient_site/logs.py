"""How a log line looks: JSON for machines, text for people, secrets in neither."""

import json
import re
import select
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from resilient_site.masking import mask
from resilient_site.requestid import current_request_id, current_trace_id

# What a pipe takes in one piece from several processes (PIPE_BUF).
LINE_MAX_BYTES = select.PIPE_BUF - 1
SHORTEST = 200
# Beside what a record has by itself, its `extra` is told as far as it is plain.
PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
# Of Django's records, which would be told twice.
LEFT_OUT = {"request", "server_time", "color_message"}
# Clients send them in paths: a terminal would obey some, and others begin a line.
_control_characters = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def formatter(style: str) -> structlog.stdlib.ProcessorFormatter:
    render = [_as_json] if style == "json" else [_inert, _console()]
    before: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        _add_context,
    ]
    after: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _only_plain,
        _mask,
        *render,
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before, processors=after
    )


def _console() -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        pad_event_to=0,
        pad_level=False,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _add_context(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    event["process"] = event["_record"].process
    if request_id := current_request_id():
        event.setdefault("request_id", request_id)
    if trace_id := current_trace_id():
        event.setdefault("trace_id", trace_id)
    return event


def _only_plain(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {
        key: value
        for key, value in event.items()
        if key not in LEFT_OUT and isinstance(value, PLAIN)
    }


def _mask(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    masked: EventDict = mask(event)
    return masked


def _inert(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    def escape(found: re.Match[str]) -> str:
        return ascii(found[0])[1:-1]

    for key, text in event.items():
        if isinstance(text, str):
            lines = text.split("\n") if key == "exception" else [text]
            event[key] = "\n".join(_control_characters.sub(escape, x) for x in lines)
    return event


def _as_json(logger: WrappedLogger, name: str, event: EventDict) -> str:
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
