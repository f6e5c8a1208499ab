"""The whole of it: nginx in front of two real gunicorns, and one or both are gone."""

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
# What may be said in several lines.
LISTS = {"vary", "set-cookie"}


@pytest.fixture
def whole(production: Production) -> Iterator[Production]:
    production.forget()
    yield production
    for web in production.webs:
        for process in web.processes():
            process.send_signal(signal.SIGCONT)
        if not web.answers():
            web.kill()
            web.start_web()


def how(answer) -> str:
    return answer.headers["Cache-Status"].rpartition("nginx; ")[2]


def test_the_second_reader_is_answered_by_nginx(whole: Production):
    first, second = whole.site.get(ITEM), whole.site.get(ITEM)
    assert (how(first), how(second)) == ("fwd=uri-miss", "hit")
    assert second.headers["Cache-Status"].startswith("resilient-site; ")
    assert first.body == second.body
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]


def test_a_known_answer_is_not_sent_again(whole: Production):
    etag = whole.site.get(ITEM).headers["ETag"]
    known = whole.site.get(ITEM, **{"If-None-Match": etag})
    assert (known.status, known.body, how(known)) == (304, b"", "hit")
    head = whole.site.request("HEAD", ITEM)
    assert (head.status, head.body, how(head)) == (200, b"", "hit")
    # Not a weak one, by which nothing could be changed.
    assert whole.site.get(ITEM, **{"Accept-Encoding": "gzip"}).headers["ETag"] == etag


def test_what_one_person_sees_is_kept_for_nobody(whole: Production):
    session = {"Cookie": f"sessionid={whole.session}"}
    for _ in range(2):
        page = whole.site.get("/items/", **session)
        assert b"edith" in page.body
        assert how(page) == "fwd=bypass"
        assert how(whole.site.get(ITEM, **whole.signed_in)) == "fwd=bypass"
    page = whole.site.get("/items/")
    assert how(page) == "fwd=uri-miss"
    assert b"edith" not in page.body


def test_a_change_is_seen_at_once_by_who_made_it(whole: Production):
    made = whole.write("POST", "/api/v1/items/", {"name": "First"})
    path = f"/api/v1/items/{made.json()['id']}"
    assert whole.site.get(path).json()["name"] == "First"
    assert whole.write("PATCH", path, {"name": "Second"}).status == 200
    assert whole.site.get(path, **whole.signed_in).json()["name"] == "Second"
    assert whole.write("DELETE", path, None).status == 204


@pytest.mark.parametrize(
    "path", [ITEM, "/items/", "/static/icon.svg", "/metrics", "/api/v1/none", "/livez"]
)
def test_nothing_is_said_twice(whole: Production, path: str):
    for _ in range(2):
        answer = whole.site.get(path)
        names = Counter(name.lower() for name in answer.headers)
        assert not {name for name, n in names.items() if n > 1} - LISTS
        for name in ("x-request-id", "x-content-type-options"):
            assert names[name] == 1 or path == "/livez"


def test_static_files_are_compressed_and_kept_for_ever(whole: Production):
    hashed = next(whole.nginx.public.glob("static/site.*.css")).name
    plain = whole.site.get(f"/static/{hashed}")
    packed = whole.site.get(f"/static/{hashed}", **{"Accept-Encoding": "gzip"})
    for answer in (plain, packed):
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    assert (
        "immutable" not in whole.site.get("/static/site.css").headers["Cache-Control"]
    )
    assert whole.site.get("/static/site.000000000000.css").status == 404


def test_without_any_web_process_what_was_read_is_shown(whole: Production):
    known = {path: whole.site.get(path).body for path in (ITEM, "/items/")}
    for web in whole.webs:
        web.kill()
    for path, body in known.items():
        assert whole.site.get(path).body == body
    # Fresh for 10 seconds, by the application's word.
    wait_for(lambda: how(whole.site.get(ITEM)) == "hit; detail=stale", 15)
    assert whole.site.get("/items/").body == known["/items/"]
    unknown = whole.site.get("/api/v1/items/country.FR")
    assert unknown.status == 502
    assert unknown.headers["Content-Type"] == "application/problem+json"
    assert unknown.headers["Retry-After"] == "5"
    assert unknown.json()["request_id"] == unknown.headers["X-Request-ID"]
    page = whole.site.get("/items/country.FR/")
    assert page.status == 502
    assert b"<h1>Bad Gateway</h1>" in page.body


def search(whole: Production) -> tuple[int, float]:
    began = time.monotonic()
    status = whole.site.get(f"/api/v1/items?search={uuid4()}").status
    return status, time.monotonic() - began


def test_one_killed_web_process_is_noticed_by_no_reader(whole: Production):
    whole.webs[0].kill()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: search(whole), range(100)))
    assert {status for status, _ in answers} == {200}


def test_one_hung_web_process_costs_its_readers_one_wait(whole: Production):
    for process in whole.webs[0].processes():
        process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: search(whole), range(100)))
    assert {status for status, _ in answers} == {200}
    slow = [took_s for _, took_s in answers if took_s > 2]
    # Those that it had when it was found out, and one that tried it again.
    assert len(slow) <= 8
    assert max(slow, default=0) < 9
