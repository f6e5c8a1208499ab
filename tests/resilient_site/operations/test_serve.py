"""`manage.py serve`: the first start, and requests to the site as it is run."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.private_server import wait_for
from tests.running import ROOT, Site, first_start

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A site on the embedded default, started for the first time."""
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site.start(for_the_first_time=True)
    finally:
        site.stop()


@pytest.fixture(scope="module")
def token(site) -> dict[str, str]:
    made = site.manage("create_token", "admin", "--ttl", "1d")
    assert re.fullmatch(r"\w{64}\n", made.stdout), made
    return {"Authorization": f"Token {made.stdout.strip()}"}


def test_first_start_loads_the_sample_and_creates_an_administrator(site):
    output = site.output()
    assert len(re.findall(r"Password: \S{16}", output)) == 1
    assert re.search(r"13,\d{3} items created", output)
    answer = site.get("/api/v1/items/country.DE")
    assert answer.json()["name"] == "Germany"
    assert answer.json()["tags"] == ["country", "iso-3166-1"]


def test_client_of_the_demo_works_unchanged(site, token):
    """Without a trailing slash, and following no redirect."""
    item = {"id": 1, "name": "Foo", "description": "A thing"}
    created = site.request("POST", "/api/v1/items/", item, token)
    assert created.status == 201
    read = site.get("/api/v1/items/1")
    assert (read.status, item.items() <= read.json().items()) == (200, True)

    again = site.request("POST", "/api/v1/items/", item, token)
    assert (again.status, again.json()["detail"]) == (400, "Item already exists")
    unknown = site.get("/api/v1/items/2")
    assert (unknown.status, unknown.json()["detail"]) == (404, "Item not found")


def test_write_needs_a_token(site):
    answer = site.request("POST", "/api/v1/items/", {"name": "x"})
    assert answer.status == 401
    for wrong in ("Token x", "Token", "Token \xff", "token a b"):
        answer = site.get("/api/v1/items", Authorization=wrong)
        assert (answer.status, answer.json()["code"]) == (401, "authentication_failed")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /api/v1/items?search=%ff%fe HTTP/1.1\r\nHost: localhost\r\n", 200),
        (b"GET /api/v1/items/%ff%00 HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"GET /api/v1/items HTTP/1.1\r\nHost: evil.example\r\n", 400),
        (b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\n"
         b"Transfer-Encoding: chunked\r\n", 411),
        (b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\n"
         b"Content-Length: 99999999999\r\n", 413),
    ],
    ids=["query", "path", "host", "chunked", "length"],
)  # fmt: skip
def test_malformed_request_gets_a_problem_document(site, head, status):
    received = site.raw(head + b"Connection: close\r\n\r\n0\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 %d " % status), received[:400]
    if status >= 400:
        assert b"application/problem+json" in received


def test_export_is_streamed_and_imports_without_a_change(site, tmp_path):
    answer = site.get("/api/v1/items/export?tag=currency")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    file = tmp_path / "currencies.csv"
    file.write_bytes(answer.body)
    result = site.manage("import_items", str(file))
    assert re.match(r"0 items created, 0 updated, 1\d\d unchanged; 0 ", result.stdout)


def test_static_files_and_docs_are_served_without_nginx(site):
    docs = site.get("/api/v1/docs/")
    assert docs.status == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', docs.body.decode())
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert site.get(link).status == 200, link
    assert site.get("/api/v1/schema/").status == 200


def test_taken_port_is_one_clear_line(site, tmp_path):
    other = Site(tmp_path, PORT=str(site.port))
    result = other.manage("serve")
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert f"Port {site.port} is taken" in line
    assert not (tmp_path / "site.sqlite3").exists()


def test_killed_import_resumes(tmp_path):
    """No row is lost or imported twice."""
    for name in ("site.sqlite3", "secret_key"):
        shutil.copy(first_start() / name, tmp_path)
    site = Site(tmp_path)
    rows = 60_000
    file = tmp_path / "parts.csv"
    with open(file, "w") as out:
        out.write("name,tags\n")
        out.writelines(f"Part {n},part\n" for n in range(rows))

    command = [sys.executable, "manage.py", "import_items", str(file)]
    database = tmp_path / "site.sqlite3"
    before = count(database)
    process = subprocess.Popen(command, cwd=ROOT, env=site.env)
    while count(database) < before + 10_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert count(database) < before + rows

    result = site.manage("import_items", str(file), "--resume")

    assert f"{rows:,} items created, 0 updated" in result.stdout, result
    assert "Resuming after line" in result.stderr
    assert count(database) == before + rows


def test_export_writes_to_a_pipe_and_ends_with_its_reader(site, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    try:
        with subprocess.Popen(["wc", "-c"], stdin=reader) as counter:
            result = site.manage("export_items", str(pipe))
            counter.terminate()
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert "Traceback" not in result.stderr
    command = f"{sys.executable} manage.py export_items - | head -1"
    shell = {"shell": True, "cwd": ROOT, "env": site.env, "capture_output": True}
    result = subprocess.run(command, **shell)
    assert result.stdout.startswith(b"id,name")
    assert result.stderr == b""


def count(database: Path) -> int:
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        return connection.execute("SELECT COUNT(*) FROM items_item").fetchone()[0]


def test_lost_database_leaves_stale_responses_and_ends_no_process(
    tmp_path, postgres_own
):
    site, *_ = Site.on_postgres(postgres_own.url(), tmp_path)
    site.start()
    try:
        assert site.get("/api/v1/items").status == 200
        wait_for(site.pool)
        processes = set(site.processes())
        postgres_own.kill()
        for _ in range(2):
            assert site.get("/api/v1/items").status == 200
            answer = site.get("/api/v1/items?search=never-asked")
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            page = site.get("/items/")
            assert (page.status, b"<h1" in page.body) == (503, True)
        postgres_own.start()
        search = "/api/v1/items?search=never-asked"
        wait_for(lambda: site.get(search).status == 200)
        assert set(site.processes()) == processes
    finally:
        site.stop()
