"""nginx in front of two real gunicorns: cache, static files, killed and hung ones."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.deploy.conftest import Production
from tests.private_server import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

ITEM = "/api/v1/items/country.DE"
# Headers that may be repeated.
LISTS = {"vary", "set-cookie"}


@pytest.fixture
def stack(production: Production) -> Iterator[Production]:
    production.forget()
    yield production
    for web in production.webs:
        for process in web.processes():
            process.send_signal(signal.SIGCONT)
        if not web.answers():
            web.kill()
            web.start_web()


def cache_status(answer) -> str:
    return answer.headers["Cache-Status"].rpartition("nginx; ")[2]


def test_cache_serves_the_second_reader(stack: Production):
    first, second = stack.site.get(ITEM), stack.site.get(ITEM)
    assert (cache_status(first), cache_status(second)) == ("fwd=uri-miss", "hit")
    assert second.headers["Cache-Status"].startswith("resilient-site; ")
    assert first.body == second.body
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]


def test_cache_answers_conditional_and_head_requests(stack: Production):
    etag = stack.site.get(ITEM).headers["ETag"]
    known = stack.site.get(ITEM, **{"If-None-Match": etag})
    assert (known.status, known.body, cache_status(known)) == (304, b"", "hit")
    head = stack.site.request("HEAD", ITEM)
    assert (head.status, head.body, cache_status(head)) == (200, b"", "hit")
    # Not a weak one, by which nothing could be changed.
    assert stack.site.get(ITEM, **{"Accept-Encoding": "gzip"}).headers["ETag"] == etag


def test_cache_keeps_no_response_of_an_authenticated_client(stack: Production):
    session = {"Cookie": f"sessionid={stack.session}"}
    for _ in range(2):
        page = stack.site.get("/items/", **session)
        assert b"edith" in page.body
        assert cache_status(page) == "fwd=bypass"
        assert cache_status(stack.site.get(ITEM, **stack.signed_in)) == "fwd=bypass"
    page = stack.site.get("/items/")
    assert cache_status(page) == "fwd=uri-miss"
    assert b"edith" not in page.body


def test_change_is_seen_at_once_by_its_author(stack: Production):
    made = stack.write("POST", "/api/v1/items/", {"name": "First"})
    path = f"/api/v1/items/{made.json()['id']}"
    assert stack.site.get(path).json()["name"] == "First"
    assert stack.write("PATCH", path, {"name": "Second"}).status == 200
    assert stack.site.get(path, **stack.signed_in).json()["name"] == "Second"
    assert stack.write("DELETE", path, None).status == 204


@pytest.mark.parametrize(
    "path", [ITEM, "/items/", "/static/icon.svg", "/metrics", "/api/v1/none", "/livez"]
)
def test_headers_are_not_repeated(stack: Production, path: str):
    for _ in range(2):
        answer = stack.site.get(path)
        names = Counter(name.lower() for name in answer.headers)
        assert not {name for name, n in names.items() if n > 1} - LISTS
        for name in ("x-request-id", "x-content-type-options"):
            assert names[name] == 1 or path == "/livez"


def test_static_files_are_compressed_and_immutable(stack: Production):
    hashed = next(stack.nginx.public.glob("static/site.*.css")).name
    plain = stack.site.get(f"/static/{hashed}")
    packed = stack.site.get(f"/static/{hashed}", **{"Accept-Encoding": "gzip"})
    for answer in (plain, packed):
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    assert (
        "immutable" not in stack.site.get("/static/site.css").headers["Cache-Control"]
    )
    assert stack.site.get("/static/site.000000000000.css").status == 404


def test_cache_serves_stale_without_any_web_process(stack: Production):
    read = {path: stack.site.get(path).body for path in (ITEM, "/items/")}
    for web in stack.webs:
        web.kill()
    for path, body in read.items():
        assert stack.site.get(path).body == body
    # Fresh for 10 seconds by its Cache-Control.
    wait_for(lambda: cache_status(stack.site.get(ITEM)) == "hit; detail=stale")
    assert stack.site.get("/items/").body == read["/items/"]
    other = stack.site.get("/api/v1/items/country.FR")
    assert other.status == 502
    assert other.headers["Content-Type"] == "application/problem+json"
    assert other.headers["Retry-After"] == "5"
    assert other.json()["request_id"] == other.headers["X-Request-ID"]
    page = stack.site.get("/items/country.FR/")
    assert page.status == 502
    assert b"<h1>Bad Gateway</h1>" in page.body


def search(stack: Production) -> tuple[int, float]:
    began = time.monotonic()
    status = stack.site.get(f"/api/v1/items?search={uuid4()}").status
    return status, time.monotonic() - began


def test_killed_web_process_fails_no_read(stack: Production):
    stack.webs[0].kill()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: search(stack), range(100)))
    assert {status for status, _ in answers} == {200}


def test_hung_web_process_delays_few_reads(stack: Production):
    for process in stack.webs[0].processes():
        process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: search(stack), range(100)))
    assert {status for status, _ in answers} == {200}
    # nginx waits 5 s: for the first ones, and for one that tries the process again.
    assert len([took_s for _, took_s in answers if took_s > 5]) <= 8
