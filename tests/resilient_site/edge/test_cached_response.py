"""Cached responses: how long they are usable for what, and what is sent of them."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from resilient_site.edge.cache import cached_response
from resilient_site.edge.cache.cached_response import (
    BODY_MAX_BYTES,
    COLLAPSED,
    EDGE_ACTION,
    HIT,
    STALE,
    STORED,
    CachedResponse,
    invalidates_cached_response,
)
from resilient_site.edge.cache.invalidation import invalidations, mark, now, slot_of
from resilient_site.edge.request import EdgeRequest
from resilient_site.edge.wsgi_bridge import Response
from tests.resilient_site.edge.clients import Answer

pytestmark = pytest.mark.once
FRESH_S, STALE_S, STALE_IF_ERROR_S = 10, 60, 100


@pytest.fixture
def clocks(monkeypatch) -> SimpleNamespace:
    """The time of day, and the seconds since the response was stored."""
    clocks = SimpleNamespace(day_s=1_700_000_000.0, age_s=0.0)
    set_by_test = SimpleNamespace(
        monotonic=lambda: 5.0 + clocks.age_s, time=lambda: clocks.day_s
    )
    monkeypatch.setattr(cached_response, "time", set_by_test)
    return clocks


@pytest.fixture
def response() -> CachedResponse:
    headers = [
        (b"content-type", b"text/html"),
        (b"content-length", b"4"),
        (b"etag", b'"a"'),
    ]
    made = mark(now(), [])
    limits = FRESH_S, STALE_S, STALE_IF_ERROR_S
    return CachedResponse(headers, b"body", made, *limits, stored=5.0)


def sent(response: CachedResponse, *args: object, stale: bool = False):
    """Return what is sent, and what the access log records."""
    scope = {"method": "GET", "path": "/thing", "query_string": b"", "headers": []}
    request, answer = EdgeRequest(scope), Answer()
    send = response.send_stale if stale else response.send
    asyncio.run(send(request, answer.take, [], *args))
    return answer, scope[EDGE_ACTION]


@pytest.mark.parametrize(
    ("age_s", "is_fresh", "while_revalidating", "if_error"),
    [
        (9.5, True, True, True),
        (10, False, True, True),
        (69.5, False, True, True),
        (70, False, False, True),
        (109.5, False, False, True),
        (110, False, False, False),
    ],
)
def test_response_is_usable_for_less_than_its_limits(
    response, clocks, monkeypatch, age_s, is_fresh, while_revalidating, if_error
):
    current = SimpleNamespace(voided_at=-1, is_current=lambda mark: True)
    monkeypatch.setattr(cached_response, "invalidations", current)
    clocks.age_s = age_s
    assert response.is_fresh() == is_fresh
    assert response.is_usable_while_revalidating() == while_revalidating
    assert response.is_usable_if_error() == if_error


@pytest.mark.parametrize(
    ("stored_s", "voided_at", "is_usable"),
    [
        (5.0, 5 * 10**9 - 1, True),
        (5.0, 5 * 10**9, False),
        (5.0, -1, True),
        (-9.0, -1, True),  # before this boot of the machine
        (-9.0, 1, False),
    ],
)
def test_response_stored_before_a_void_is_not_usable(
    response, clocks, monkeypatch, stored_s, voided_at, is_usable
):
    invalidations = SimpleNamespace(voided_at=voided_at)
    monkeypatch.setattr(cached_response, "invalidations", invalidations)
    assert replace(response, stored=stored_s).is_usable_if_error() == is_usable


def test_age_counts_on_while_the_response_is_encoded(response, clocks):
    clocks.age_s = 7.0
    data = response.encode("key", clock_s=1000.0)
    found = CachedResponse.decode("key", data, 1003.0, 0)
    assert found is not None
    assert found.age == 10


@pytest.mark.parametrize(
    ("args", "age_s", "cached", "recorded"),
    [
        ((), 10, "hit; ttl=0", HIT),
        ((), 11, "hit; ttl=-1", STALE),
        ((HIT, b"; detail=x"), 1, "hit; ttl=9; detail=x", STALE),
        ((STORED,), 11, "fwd=uri-miss; stored; ttl=-1", STORED),
        ((COLLAPSED,), 0, "fwd=uri-miss; collapsed; ttl=10", COLLAPSED),
    ],
)
def test_client_and_access_log_see_how_a_response_was_cached(
    response, clocks, args, age_s, cached, recorded
):
    clocks.age_s = age_s
    answer, found = sent(response, *args)
    assert (answer.cached, found) == (f"resilient-site; {cached}", recorded)
    assert answer.headers["age"] == str(age_s)


def test_stale_page_says_once_when_it_was_current(response, clocks):
    body = b"<!-- notice --><p>An editor's <!-- notice --></p>"
    clocks.age_s = 90.0
    answer, _ = sent(replace(response, body=body), stale=True)
    assert b'<time datetime="2023-11-14T22:11:50+00:00">' in answer.body
    assert b">22:11:50 UTC on 14 November 2023</time>" in answer.body
    assert answer.body.endswith(b"<p>An editor's <!-- notice --></p>")
    names = [name for name, _ in answer.raw_headers]
    assert sorted(names) == [
        b"age", b"cache-control", b"cache-status", b"content-length", b"content-type"
    ]  # fmt: skip
    assert answer.headers["content-length"] == str(len(answer.body))


def stored(body: bytes, cache_control: str) -> CachedResponse | None:
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", cache_control.encode()),
    ]
    return CachedResponse.from_response(Response(200, headers, "", body), 1)


def test_response_of_a_replica_is_as_old_as_the_replica():
    """Another machine may know of a change since, and take this one from Redis."""
    as_of, headers = (
        now() - 5 * 10**9,
        [
            (b"content-length", b"0"),
            (b"cache-control", b"public, s-maxage=10"),
        ],
    )
    for moment, is_fresh in ((as_of, False), (0, True)):
        invalidations.slots[slot_of("a-replicated-item")] = as_of + 10**9
        made = Response(200, headers, "a-replicated-item", b"", moment)
        copy = CachedResponse.from_response(made, now())
        assert copy is not None
        assert copy.is_fresh() is is_fresh
        assert (copy.age > 4) is not is_fresh


def test_size_counts_every_byte(response):
    headers = [(b"content-type", b"text/html"), (b"content-length", b"4")]
    for body, name, value, more in (
        (b"body", b"etag", b'"a"', 0),
        (b"body!", b"etag", b'"a"', 1),
        (b"body", b"etags", b'"a"', 1),
        (b"body", b"etag", b'"ab"', 1),
    ):
        other = replace(response, body=body, headers=[*headers, (name, value)])
        assert other.size == response.size + more


@pytest.mark.parametrize(("size", "is_stored"), [(0, True), (1, False)])
def test_response_is_stored_up_to_a_size(size, is_stored):
    body = bytes(BODY_MAX_BYTES + size)
    assert (stored(body, "public, s-maxage=1") is not None) == is_stored


@pytest.mark.parametrize(
    ("visibility", "expected"), [("public", (9, 8, 7)), ("private", (0, 0, 7))]
)
def test_private_response_is_usable_in_place_of_an_error_only(visibility, expected):
    ages = "s-maxage=9, stale-while-revalidate=8, stale-if-error=7"
    copy = stored(b"", f"{visibility}, {ages}")
    assert copy is not None
    limits = copy.fresh_s, copy.stale_while_revalidate_s, copy.stale_if_error_s
    assert limits == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, False), (299, False), (300, True), (304, False), (404, True),
        (408, False), (429, False), (499, True), (500, False),
    ],
)  # fmt: skip
def test_some_statuses_invalidate_the_cached_response(status, expected):
    assert invalidates_cached_response(status) == expected
