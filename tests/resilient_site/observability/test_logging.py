"""Log lines of the running site: complete, whole, without secrets, never waited for."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import structlog

from resilient_site.observability.logging import (
    MAX_LINE_BYTES,
    MAX_QUEUED,
    LineHandler,
    line_formatter,
)
from tests.private_server import wait_for
from tests.running import ROOT, Site, admin_token

pytestmark = pytest.mark.once

PIPELINED = 50
ITEM = "/api/v1/items/country.DE"
PASSWORD, COOKIE = "a-password-of-mine", "c00kie-of-mine"
SET_PASSWORD = f"""
from django.contrib.auth.models import User
ada = User.objects.get()
ada.set_password({PASSWORD!r})
ada.save()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), LOG_FORMAT="json")
    try:
        site.start_web()
        yield site
    finally:
        site.stop()


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def line_of(site: Site, request_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        lines = [x for x in lines_of(site.output()) if x["logger"].endswith("requests")]
        return next((x for x in lines if x["request_id"] == request_id), None)

    return wait_for(found)


def test_request_makes_one_line(site):
    token = admin_token()
    answer = site.get("/api/v1/items/?page_size=2", **{
        "Authorization": f"Token {token}", "X-Request-ID": "logged",
    })  # fmt: skip
    line = line_of(site, "logged")
    assert (line["method"], line["status"]) == ("GET", 200)
    assert (line["path"], line["route"]) == ("/api/v1/items/", "/api/v1/items")
    assert line["bytes"] == len(answer.body)
    assert line["user"] == "1"
    assert line["duration_ms"] > 0
    assert len(line["trace_id"]) == 32
    assert site.output().count('"request_id":"logged"') == 1


def test_cache_hits_and_probes_make_no_line(site):
    site.get(ITEM)
    for name in ("/livez", "/readyz", ITEM):
        assert site.get(name, **{"X-Request-ID": "not-logged"}).status == 200
    site.get("/nothing", **{"X-Request-ID": "the-last"})
    assert line_of(site, "the-last")["user"] is None
    assert "not-logged" not in site.output()


def test_requests_with_secrets_leave_none_in_the_log(site):
    assert site.manage("shell", "-c", SET_PASSWORD).returncode == 0
    token = "f" * 64
    form = {"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": COOKIE}
    headers = {
        "Authorization": f"Token {token}",
        "Cookie": f"sessionid={COOKIE}; csrftoken={COOKIE}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    before = len(site.output())
    for path in (f"/account/sign-in/?token={token}", "/api/v1/items/", "/admin/login/"):
        site.request("POST", path, urlencode(form).encode(), headers)
        site.get(f"{path}?secret={PASSWORD}", **headers)
    site.get("/nothing", **{"X-Request-ID": "after-secrets"})
    line_of(site, "after-secrets")
    log = site.output()[before:]
    assert "/account/sign-in/" in log
    for secret in (token, PASSWORD, COOKIE):
        assert secret not in log


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
import logging, sys
sys.path.insert(0, {str(ROOT)!r})
from resilient_site.observability.logging import LineHandler, line_formatter
handler = LineHandler()
handler.setFormatter(line_formatter("json"))
logging.basicConfig(handlers=[handler], level=logging.INFO)
for n in range(200):
    try:
        raise ValueError("x" * 6000)
    except ValueError:
        logging.exception("It failed.")
"""


def test_longest_lines_of_several_processes_stay_whole():
    ours, theirs = os.pipe()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE], stderr=theirs) for _ in range(3)
    ]
    os.close(theirs)
    with os.fdopen(ours) as output:
        lines = [json.loads(line) for line in output]
    assert [writer.wait(10) for writer in writers] == [0, 0, 0]
    assert len(lines) == 600
    assert all(line["event"] == "It failed." for line in lines)
    assert all(line["exception"].startswith("Traceback") for line in lines)
    assert MAX_LINE_BYTES // 2 < len(json.dumps(lines[0])) < MAX_LINE_BYTES


def test_console_line_has_level_message_and_fields():
    text = render("console", msg="The %s failed.", args=("cache",), n=1)
    assert re.search(r"\[info *\] The cache failed\..*n.*=.*1", text)


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
    assert r"/\x1b[2J\r\n2026 [info] forged\x9b\x7f\u2028" in console
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
    assert "Path('x')" in str(line["path"]) or line["path"].endswith("Path('x')")


def test_record_with_wrong_arguments_makes_a_line(capfd):
    handler = LineHandler()
    handler.setFormatter(line_formatter("json"))
    handler.handle(logging.makeLogRecord({"msg": "%d %d", "args": ("x",)}))
    line = json.loads(capfd.readouterr().err)
    assert line["event"].startswith("A log record cannot be rendered: '%d %d'")


def test_stopped_reader_holds_up_no_request_and_no_exit(tmp_path):
    """It is the reader of a pipe: a line that is waited for waits for ever."""
    site = Site(tmp_path / "site", LOG_FORMAT="json", ACCESS_LOG="all")
    site.output_path.parent.mkdir()
    with open(site.output_path, "wb") as output:
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
    assert reader.stdin
    try:
        command = [sys.executable, "manage.py", "serve", "--no-compute"]
        site.run(command, cwd=ROOT, stdout=reader.stdin, stderr=reader.stdin)
        reader.stdin.close()
        site.get(ITEM)
        reader.send_signal(signal.SIGSTOP)
        request_many(site, 3 * MAX_QUEUED)
        assert site.get("/items/?search=not+known").status == 200
        reader.send_signal(signal.SIGCONT)
        wait_for(lambda: site.get(ITEM) and "lines were dropped" in site.output())
        written = len(lines_of(site.output()))
        found = re.search(r"(\d+) log lines were dropped", site.output())
        assert found
        assert written + int(found[1]) >= 3 * MAX_QUEUED

        reader.send_signal(signal.SIGSTOP)
        request_many(site, 1_000)
        site.stop()
    finally:
        reader.send_signal(signal.SIGCONT)
        site.kill()
        reader.wait(10)


def request_many(site: Site, times: int) -> None:
    """Request a cached item many times."""
    request = f"GET {ITEM} HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode()
    with socket.create_connection((site.host, site.port), timeout=20) as peer:
        for _ in range(times // PIPELINED):
            received = b""
            peer.sendall(PIPELINED * request)
            while received.count(b"HTTP/1.1 200") < PIPELINED:
                received += peer.recv(65_536)


def test_every_line_from_start_to_end_is_json(tmp_path):
    """But those of supervisord, whose format is fixed."""
    site = Site(tmp_path / "site", LOG_FORMAT="json")
    site.start()
    site.stop()
    _, _, after = site.output().partition("Ctrl-C stops it.\n")
    rest = re.sub(r"(?m)^[\d-]+ [\d:,]+ (WARN|CRIT|ERRO) .*\n", "", after)
    lines = [json.loads(line) for line in rest.splitlines()]
    names = {line["logger"].partition(".")[0] for line in lines}
    assert {"gunicorn", "uvicorn", "compute"} <= names
