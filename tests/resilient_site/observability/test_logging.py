"""Log lines: complete, whole, without secrets, never waited for."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from resilient_site.observability import logging as module
from resilient_site.observability.logging import (
    KEYS_MAX,
    MAX_LINE_BYTES,
    MAX_QUEUED,
    SAME_MAX,
    SAME_PERIOD_S,
    LineHandler,
    Throttle,
    line_formatter,
)
from tests.private_server import wait_for
from tests.running import ROOT

pytestmark = pytest.mark.once


@pytest.fixture
def reader(monkeypatch) -> Iterator[int]:
    """A full pipe in place of standard error; its end to read from."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"full" * 1024)
    monkeypatch.setattr(module, "STDERR", theirs)
    yield ours
    os.close(ours)
    os.close(theirs)


def read_until(reader: int, end: bytes) -> bytes:
    received = bytearray()
    while end not in received:
        received += os.read(reader, 65_536)
    return bytes(received)


def test_lines_for_a_stopped_reader_are_dropped_and_reported_once(reader, caplog):
    handler = LineHandler()
    handler.start()
    for _ in range(MAX_QUEUED + 50):
        handler.enqueue(b"line\n")
    assert 49 <= handler.dropped <= 50  # the thread may have taken one
    received = read_until(reader, (MAX_QUEUED + 50 - handler.dropped) * b"line\n")
    assert received.count(b"line\n") + handler.dropped == MAX_QUEUED + 50
    wait_for(lambda: caplog.messages)
    for line in (b"next\n", b"last\n"):
        handler.enqueue(line)
        read_until(reader, line)
    text = f"{handler.dropped} log lines were dropped: their reader did not take them"
    assert [message.partition(" in ")[0] for message in caplog.messages] == [text]


def test_the_same_warning_has_a_line_now_and_then_with_the_number(clock):
    throttle = Throttle(clock)

    def log(number: int, level: int = logging.ERROR) -> list[int | None]:
        """Log so many; return of each that passes how many it stands for."""
        passed = []
        for _ in range(number):
            fields = {"name": "x", "levelno": level, "msg": "%s failed", "args": "a"}
            record = logging.makeLogRecord(fields)
            if throttle.filter(record):
                passed.append(getattr(record, "repeated", None))
        return passed

    assert log(76) == [None] * SAME_MAX
    assert log(76, logging.INFO) == [None] * 76
    clock.now += SAME_PERIOD_S
    assert log(76) == [76 - SAME_MAX] + [None] * (SAME_MAX - 1)
    clock.now += SAME_PERIOD_S
    record = logging.makeLogRecord({"name": "x", "levelno": 40, "msg": "another"})
    assert throttle.filter(record)
    for n in range(2 * KEYS_MAX):
        fields = {"name": "x", "levelno": 40, "msg": "%d", "args": (n,)}
        assert throttle.filter(logging.makeLogRecord(fields))
    assert len(throttle._seen) == KEYS_MAX


def test_flush_waits_for_the_last_line_but_not_for_a_stopped_reader(
    reader, monkeypatch
):
    handler = LineHandler()
    handler.start()
    handler.enqueue(b"last\n")
    wait_for(handler.queue.empty)  # the thread has taken it
    handler.flush()
    monkeypatch.setattr(module, "FLUSH_TIMEOUT_S", 90)
    flush = threading.Thread(target=handler.flush)
    flush.start()
    flush.join(0.2)
    assert flush.is_alive()
    read_until(reader, b"last\n")
    flush.join(90)
    assert not flush.is_alive()


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"msg": f"It was\n{'zq' * 32}"},
        {"msg": "It is", "deep": {"more": [f"it is {'zq' * 32}"]}},
        {"msg": "It is", "paſsword": "zqzq"},
        {"msg": "Get %s", "args": ("/?Token=zqzq",)},
    ],
)
def test_rendered_line_has_no_secret_at_any_depth(style, fields):
    line = render(style, **fields)
    assert "***" in line
    assert "zq" not in line


def render(style: str, **fields: Any) -> str:
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO"} | fields)
    return line_formatter(style).format(record)


WRITE = f"""
import logging, os, sys
sys.path.insert(0, {str(ROOT)!r})
from resilient_site.observability.logging import LineHandler, line_formatter
handler = LineHandler()
handler.setFormatter(line_formatter("json"))
logging.basicConfig(handlers=[handler], level=logging.INFO)
os.fork(), os.fork()  # four processes
for n in range(200):
    try:
        raise ValueError("x" * 6000)
    except ValueError:
        logging.exception("It failed: %d.", n)
"""


def test_longest_lines_of_several_processes_stay_whole():
    command = [sys.executable, "-c", WRITE]
    done = subprocess.run(command, capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 800
    assert all(line["event"].startswith("It failed: ") for line in lines)
    assert all(line["exception"].startswith("Traceback") for line in lines)
    assert MAX_LINE_BYTES // 2 < len(json.dumps(lines[0])) < MAX_LINE_BYTES


def test_structlog_logger_makes_the_same_lines(caplog):
    line_formatter("json")
    structlog.get_logger("library").warning("retried", attempt=2)
    line = json.loads(line_formatter("json").format(caplog.records[-1]))
    assert (line["event"], line["attempt"]) == ("retried", 2)
    assert (line["level"], line["logger"]) == ("warning", "library")


def test_client_text_begins_no_line_and_commands_no_terminal():
    path = "/\x1b[2J\r\n2026 [info] forged\x9b\x7f\u2028"
    console, machine = (
        render(style, msg="GET %s", args=(path,), path=path)
        for style in ("console", "json")
    )
    assert r"[info] GET /\x1b[2J\r\n2026 [info] forged\x9b\x7f\u2028" in console
    assert console.isprintable()
    assert machine.isprintable()
    assert json.loads(machine)["path"] == path


def test_console_traceback_keeps_its_lines():
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        text = render("console", msg="It failed.", exc_info=sys.exc_info())
    assert "\x1b" not in text
    assert text.splitlines()[-1] == r"ValueError: \x1b[2J"


def test_values_that_json_lacks_are_rendered():
    text = "half a \ud83d\n"
    line = json.loads(render("json", msg="%s", args=(text,), n=2**70, path=Path("x")))
    assert (line["event"], line["n"]) == (text, 2**70)
    assert "Path('x')" in line["path"]


def test_record_that_cannot_be_rendered_makes_a_line_without_secrets(capfd):
    handler = LineHandler()
    handler.setFormatter(line_formatter("json"))
    wrong = {"name": "x", "levelno": 40, "msg": "Token %d %d", "args": ("token=zqzq",)}
    handler.handle(logging.makeLogRecord(wrong))
    error = capfd.readouterr().err
    line = json.loads(error)
    assert line["event"].startswith("A log record cannot be rendered: 'Token %d %d'")
    assert (line["level"], line["logger"]) == ("error", "x")
    assert "zq" not in error
