"""What the site says of itself while it serves, and what it never says."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from resilient_site.observability.log_format import LINE_MAX_BYTES, LineFormatter
from resilient_site.observability.log_handler import MOST_WAITING
from resilient_site.observability.redaction import mask
from resilient_site.observability.route_names import route_of
from tests.private_server import wait_for
from tests.running import ROOT, Site

pytestmark = pytest.mark.once

AT_ONCE = 50
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
        told = [x for x in lines_of(site.output()) if x["logger"].endswith("requests")]
        return next((x for x in told if x["request_id"] == request_id), None)

    return wait_for(found)


def test_a_request_is_told_in_one_line(site):
    token = site.manage("create_token", "admin").stdout.strip()
    answer = site.get("/api/v1/items/?page_size=2", **{
        "Authorization": f"Token {token}", "X-Request-ID": "told",
    })  # fmt: skip
    told = line_of(site, "told")
    assert (told["method"], told["status"]) == ("GET", 200)
    assert (told["path"], told["route"]) == ("/api/v1/items/", "/api/v1/items")
    assert told["bytes"] == len(answer.body)
    assert told["user"] == "1"
    assert 0 < told["duration_ms"] < 10_000
    assert len(told["trace_id"]) == 32
    assert site.output().count('"request_id":"told"') == 1


def test_what_is_known_and_probes_are_not_told(site):
    site.get(ITEM)
    for name in ("/livez", "/readyz", ITEM):
        assert site.get(name, **{"X-Request-ID": "not-told"}).status == 200
    site.get("/nothing", **{"X-Request-ID": "the-last"})
    assert line_of(site, "the-last")["user"] is None
    assert "not-told" not in site.output()


def test_no_secret_is_told(site):
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
    said = site.output()[before:]
    assert "/account/sign-in/" in said
    for secret in (token, PASSWORD, COOKIE):
        assert secret not in said


@pytest.mark.parametrize(
    ("told", "masked"),
    [
        ("Authorization: Token 0123456789abcdef", "Authorization: Token ***"),
        ("postgres://site:pw@db/site", "postgres://***@db/site"),
        ("amqp://site:p@ss@db/x for a@b", "amqp://***@db/x for a@b"),
        ("GET /x?a=1&api_key=abc&b=2", "GET /x?a=1&api_key=***&b=2"),
        ("{'password': 'abc', 'n': 1}", "{'password': '***', 'n': 1}"),
        ("{'password': \"it's two words\"}", "{'password': \"***\"}"),
        ("sessionid=abc; other=1", "sessionid=***; other=1"),
        (f"It was {'a1' * 32}.", "It was ***."),
        ({"SECRET_KEY": "x", "deep": [{"token": 1}]},
         {"SECRET_KEY": "***", "deep": [{"token": "***"}]}),
        ("cache: breaker open, as 3 calls failed", ) * 2,
    ],
)  # fmt: skip
def test_secrets_are_masked(told, masked):
    assert mask(told) == masked


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "told",
    [
        {"msg": f"It was\n{'zq' * 32}"},
        {"msg": "It is", "deep": {"more": [f"it is {'zq' * 32}"]}},
        {"msg": "It is", "paſsword": "zqzq"},
        {"msg": "Get %s", "args": ("/?Token=zqzq",)},
    ],
)
def test_no_line_has_a_secret_in_whatever_it_stands(style, told):
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO"} | told)
    line = LineFormatter(style).format(record)
    assert "***" in line
    assert "zq" not in line


def test_a_path_is_told_by_its_pattern():
    assert route_of("/api/v1/items/bolt") == "/api/v1/items/<id>"
    assert route_of("/api/v1/items/nut/history") == "/api/v1/items/<id>/history"
    assert route_of("/wp-login.php") == route_of("/" + 600 * "x") == "(unknown)"
    assert route_of("/static/site.css") == "(static)"
    assert route_of("/livez") == "(probe)"


WRITE = f"""
import logging, sys
sys.path.insert(0, {str(ROOT)!r})
from resilient_site.observability.log_handler import LinesHandler
from resilient_site.observability.log_format import LineFormatter
handler = LinesHandler()
handler.setFormatter(LineFormatter("json"))
logging.basicConfig(handlers=[handler], level=logging.INFO)
for n in range(200):
    try:
        raise ValueError("x" * 6000)
    except ValueError:
        logging.exception("It failed.")
"""


def test_lines_of_several_processes_are_whole():
    """Each is as long as it may be."""
    ours, theirs = os.pipe()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE], stderr=theirs) for _ in range(3)
    ]
    os.close(theirs)
    with os.fdopen(ours) as output:
        told = [json.loads(line) for line in output]
    assert [writer.wait(10) for writer in writers] == [0, 0, 0]
    assert len(told) == 600
    assert all(line["event"] == "It failed." for line in told)
    assert all(line["exception"].startswith("Traceback") for line in told)
    assert LINE_MAX_BYTES // 2 < len(json.dumps(told[0])) < LINE_MAX_BYTES


def test_people_are_told_in_text(caplog):
    record = caplog.records
    logging.getLogger("x").warning("The %s failed.", "cache", extra={"n": 1})
    text = LineFormatter("console").format(record[-1])
    assert re.search(r"\[warning\] The cache failed\..*n.*=.*1", text)


def told_of(text: str, style: str) -> str:
    record = logging.makeLogRecord(
        {"msg": "Asked for %s", "args": (text,), "path": text, "number": 2**70}
    )
    return LineFormatter(style).format(record)


def test_what_a_client_sends_begins_no_line_and_commands_no_terminal():
    text = told_of("/\x1b[2J\r\n2026 [info] forged\x9b\x7f\u2028", "console")
    assert len(text.splitlines()) == 1
    assert r"/\x1b[2J\r\n2026 [info] forged\x9b\x7f\u2028" in text
    assert text.isprintable()


def test_a_traceback_has_lines():
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        record = logging.makeLogRecord(
            {"msg": "It failed.", "exc_info": sys.exc_info()}
        )
    text = LineFormatter("console").format(record)
    assert "\x1b" not in text
    assert text.splitlines()[-1] == r"ValueError: \x1b[2J"


def test_what_json_does_not_know_is_told_too():
    told = json.loads(told_of("half a \ud83d\n", "json"))
    assert told["event"] == "Asked for half a ?\n"
    assert told["number"] == 2**70


def test_nobody_waits_for_a_reader_who_is_stopped(tmp_path):
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
        slowest_s = ask(site, 3 * MOST_WAITING)
        assert slowest_s < 3
        assert site.get("/items/?search=not+known").status == 200
        reader.send_signal(signal.SIGCONT)
        wait_for(lambda: "log lines were dropped" in site.output(), 20)
        told = len(lines_of(site.output()))
        found = re.search(r"(\d+) log lines were dropped", site.output())
        assert found
        assert 3 * MOST_WAITING <= told + int(found[1]) <= 3 * MOST_WAITING + 50
    finally:
        reader.send_signal(signal.SIGCONT)
        site.stop()
        reader.wait(10)


def ask(site: Site, times: int) -> float:
    """Ask for what is known, many times; return the longest wait, in seconds."""
    request = f"GET {ITEM} HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode()
    slowest_s = 0.0
    with socket.create_connection((site.host, site.port), timeout=20) as peer:
        for _ in range(times // AT_ONCE):
            began, received = time.monotonic(), b""
            peer.sendall(AT_ONCE * request)
            while received.count(b"HTTP/1.1 200") < AT_ONCE:
                received += peer.recv(65_536)
            slowest_s = max(slowest_s, time.monotonic() - began)
    return slowest_s


def test_a_stop_does_not_wait_for_a_reader_who_is_stopped(tmp_path):
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert reader.stdin
    site = Site(Path(tmp_path / "site"), ACCESS_LOG="all")
    site.output_path.parent.mkdir()
    try:
        command = [sys.executable, "manage.py", "serve", "--no-compute"]
        site.run(command, cwd=ROOT, stdout=reader.stdin, stderr=reader.stdin)
        reader.stdin.close()
        reader.send_signal(signal.SIGSTOP)
        ask(site, 1_000)
        began = time.monotonic()
        site.stop()
        assert time.monotonic() - began < 15
    finally:
        reader.send_signal(signal.SIGCONT)
        site.kill()
        reader.wait(10)


def test_from_the_start_to_the_end_all_lines_are_for_machines(tmp_path):
    site = Site(tmp_path / "site", LOG_FORMAT="json")
    site.start()
    site.stop()
    _, _, after = site.output().partition("Ctrl-C stops it.\n")
    told = [json.loads(line) for line in after.splitlines()]
    names = {line["logger"].partition(".")[0] for line in told}
    assert {"supervisor", "gunicorn", "uvicorn", "compute"} <= names
