"""The example for those who keep a copy: killed under way, it ends equal."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.private_server import wait_for
from tests.running import ROOT, Site, admin_token

pytestmark = [pytest.mark.once, pytest.mark.timeout(240)]

POSITION = "SELECT next FROM position"
EXAMPLE = ROOT / "deploy" / "examples" / "keep_a_copy.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), RATE_LIMITS="off", ADMISSION="0")
    try:
        yield site.start_web()
    finally:
        site.stop()


@pytest.fixture
def send(site) -> Callable[..., int]:
    token = admin_token()

    def send(method: str, path: str, body: object = None) -> int:
        headers = {"Authorization": f"Token {token}"}
        return site.request(method, f"/api/v1/{path}", body, headers).status

    return send


@pytest.fixture
def start(site, tmp_path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    running = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(EXAMPLE), f"http://127.0.0.1:{site.port}"]
        with (tmp_path / "output").open("ab") as log:
            done = subprocess.Popen([*command, str(tmp_path / "copy")], stderr=log)
        running.append(done)
        return done

    yield start
    for process in running:
        kill(process)
    print((tmp_path / "output").read_text())  # shown when the test has failed


def read(file: Path, query: str) -> list[tuple]:
    """Return the rows; none while there is no such table yet."""
    with closing(sqlite3.connect(file)) as copy, suppress(sqlite3.OperationalError):
        return copy.execute(query).fetchall()
    return []


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def copied(file: Path) -> dict[str, dict]:
    rows = read(file, "SELECT id, state FROM item WHERE state IS NOT NULL")
    return {pk: json.loads(state) for pk, state in rows}


def original(site: Site) -> dict[str, dict]:
    lines = site.get("/api/v1/items/export?format=ndjson").body.splitlines()
    items = [json.loads(line) for line in lines]
    names = ("name", "description", "tags")
    return {str(item["id"]): {n: item[n] for n in names} for item in items}


def write(send: Callable[..., int], end: threading.Event) -> None:
    """Create, change and delete until it has to end."""
    number = 0
    while not end.is_set():
        item = f"items/copy-{number % 50}"
        name = f"Name {number}"
        if number % 5 == 4:
            assert send("DELETE", item) in (204, 404)
        elif send("PATCH", item, {"name": name}) == 404:
            body = {"id": f"copy-{number % 50}", "name": name}
            assert send("POST", "items", body) == 201
        number += 1


def test_copy_that_is_killed_or_has_a_wrong_position_ends_equal(
    site, send, start, tmp_path
):
    copy, end = tmp_path / "copy", threading.Event()
    writer = threading.Thread(target=write, args=(send, end))
    writer.start()
    try:
        process = start()
        wait_for(copy.exists)
        kill(process)  # before or in its export
        for _ in range(2):
            process = start()
            known = wait_for(lambda: read(copy, POSITION))
            wait_for(lambda: read(copy, POSITION) != known)  # noqa: B023 - at once
            kill(process)
    finally:
        end.set()
        writer.join()
    process = start()
    wait_for(lambda: copied(copy) == original(site))
    assert send("PATCH", "items/country.DE", {"name": "Changed at the end"}) == 200
    wait_for(lambda: copied(copy)["country.DE"]["name"] == "Changed at the end")

    kill(process)
    with closing(sqlite3.connect(copy, isolation_level=None)) as written:
        wrong = f"http://127.0.0.1:{site.port}/api/v1/changes?since=nonsense"
        written.execute("UPDATE position SET next = ?", [wrong])
        written.execute("INSERT INTO item VALUES ('never there', 99, '{}')")
    start()
    wait_for(lambda: copied(copy) == original(site))
