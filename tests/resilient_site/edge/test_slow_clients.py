"""Slow clients and those that have gone hold no thread."""

import socket
import time
from collections.abc import Iterator

import pytest
from django.conf import settings

from resilient_site.edge import request_body
from resilient_site.edge.request import EdgeRequest
from tests.running import Site

pytestmark = pytest.mark.once

HEAD = b" HTTP/1.1\r\nHost: localhost\r\n"
THREADS = 3


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    """A site with few threads, and items whose export fills every buffer."""
    site = Site(
        tmp_path_factory.mktemp("site"), WEB_THREADS=str(THREADS), RATE_LIMITS="off"
    )
    site.start_web()
    rows = "".join(f"big-{n},Big {n},{'x' * 9000}\n" for n in range(3000))
    result = site.manage("import_items", "-", input="id,name,description\n" + rows)
    assert result.returncode == 0, result.stderr
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture
def peers(site) -> Iterator[list[socket.socket]]:
    """More connections than threads."""
    opened = [
        socket.create_connection(("127.0.0.1", site.port), 10)
        for _ in range(THREADS * 3)
    ]
    yield opened
    for peer in opened:
        peer.close()


def export_is_answered(site: Site, within_s: float = 30) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if site.get("/api/v1/items/export?tag=script").status == 200:
            return True
    return False


def test_body_that_does_not_arrive_holds_no_thread(site, peers):
    for peer in peers:
        peer.sendall(b"POST /account/sign-in/" + HEAD + b"Content-Length: 9\r\n\r\nx")
    assert site.get("/api/v1/items/country.DE").status == 200


def test_exports_that_are_not_read_leave_threads_for_others(site, peers):
    for peer in peers:
        peer.sendall(b"GET /api/v1/items/export" + HEAD + b"\r\n")
    first = [peer.recv(12) for peer in peers]
    assert first.count(b"HTTP/1.1 200") == 1
    assert first.count(b"HTTP/1.1 503") == len(peers) - 1
    assert site.get("/api/v1/items/country.DE").status == 200
    refused = site.get("/api/v1/items/export")
    assert (refused.status, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"]

    # Once they disconnect, their threads are free again.
    for peer in peers:
        peer.close()
    assert export_is_answered(site)


@pytest.mark.parametrize(
    ("path", "header", "accepted"),
    [
        ("/api/v1/jobs/", (b"authorization", b"Token x"), True),
        ("/api/v1/jobs", (b"cookie", b"a=b; sessionid=x"), True),
        ("/jobs/new/merge/", (b"cookie", b"sessionid=x"), True),
        ("/items/import/", (b"cookie", b"sessionid=x"), True),
        ("/items/import/", (b"cookie", b"csrftoken=x"), False),
        ("/api/v1/items/", (b"authorization", b"Token x"), False),
        ("/api/v1/jobs/", (b"accept", b"*/*"), False),
    ],
)
def test_large_body_is_received_only_where_files_are_uploaded(path, header, accepted):
    length, form = settings.IMPORT_MAX_BYTES, b"multipart/form-data; boundary=x"
    for more, kind, expected in (
        (0, form, accepted),
        (1, form, False),
        (0, b"application/json", False),
    ):
        size = (b"content-length", b"%d" % (length + more))
        headers = [header, size, (b"content-type", kind)]
        scope = {"path": path, "headers": headers, "method": "POST"}
        request = EdgeRequest(scope | {"query_string": b""})
        assert request_body._is_acceptable(request) == expected


def test_head_of_an_export_runs_no_export(site):
    for _ in range(5):
        answer = site.request("HEAD", "/api/v1/items/export")
        assert (answer.status, answer.body) == (200, b"")
    assert site.get("/api/v1/items/export?tag=script").status == 200
