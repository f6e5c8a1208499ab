"""Shared responses are cached as RFC 9111, 5861 and 9211 say."""

import re
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from django.http import HttpResponse, JsonResponse

from resilient_site.edge.cache import cached_response, coalescing
from resilient_site.edge.cache.invalidation import subscriber
from resilient_site.edge.cache.store import response_store
from resilient_site.resilience.cache_control import FRESH_S, STALE_S
from tests.resilient_site.edge.clients import Answer, becomes, get, run
from tests.resilient_site.edge.views import now, page_response, thing_response

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]
# RFC 9211, section 2, with the parameters that we use.
STATUS = re.compile(
    r"resilient-site; (hit|fwd=uri-miss; (stored|collapsed)); ttl=-?\d+"
    r"(; detail=[a-z-]+)?"
)
STORED_FRESH = r"resilient-site; fwd=uri-miss; stored; ttl=\d+"
MODIFIED = "Sat, 01 Jan 2000 00:00:00 GMT"


@pytest.fixture
def set_age(monkeypatch) -> Iterator[Callable[[float], None]]:
    """Make all cached responses so many seconds older than they are."""
    real = time.monotonic

    def set_age(seconds: float) -> None:
        clock = SimpleNamespace(monotonic=lambda: real() + seconds, time=time.time)
        monkeypatch.setattr(cached_response, "time", clock)

    return set_age


def age_of(answer: Answer) -> int:
    """Return its seconds, of which a busy machine takes some itself."""
    return int(answer.headers["age"])


@run
async def test_second_request_is_a_cache_hit():
    first, second = await get(), await get()
    assert (len(now.asked), first.is_hit, second.is_hit) == (1, False, True)
    assert first.body == second.body
    assert re.fullmatch(STORED_FRESH, first.cached)
    assert age_of(second) < FRESH_S
    assert second.headers["x-request-id"] != first.headers["x-request-id"]


@run
async def test_head_fetches_and_gets_the_headers_of_the_whole_response():
    assert (await get(method="HEAD")).body == b""
    whole, head = await get(), await get(method="HEAD")
    assert (head.status, head.body, whole.is_hit, head.is_hit) == (200, b"", True, True)
    assert head.headers["content-length"] == str(len(whole.body)) != "0"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "condition", [{"If-None-Match": '"b", "a"'}, {"If-Modified-Since": MODIFIED}]
)
@run
async def test_conditional_request_is_a_cache_hit(condition, method):
    now.respond = lambda request: thing_response(
        "x", ETag='"a"', Last_Modified=MODIFIED, X_Other="1"
    )

    await get()
    answer = await get(method=method, **condition)
    assert (answer.status, answer.is_hit, answer.body) == (304, True, b"")
    assert {"etag", "cache-control"} <= answer.headers.keys()
    assert not {"content-type", "content-length", "x-other"} & set(answer.headers)
    assert (await get(**{"If-None-Match": '"b"'})).status == 200
    assert len(now.asked) == 1


@run
async def test_condition_is_not_passed_to_the_view():
    """Else its 304 would be all that there is for other clients."""
    now.respond = lambda request: thing_response("x", ETag='"a"')
    assert (await get(**{"If-None-Match": '"a"'})).status == 304
    assert (await get()).body == b'"x"'


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Cache-Control": "no-store, public, s-maxage=9"}),
        (200, {"Cache-Control": "private, s-maxage=9"}),
        (200, {"Cache-Control": "private, public, s-maxage=9"}),
        (200, {"Cache-Control": "no-cache, public, s-maxage=9"}),
        (200, {"Cache-Control": "public, max-age=0"}),
        (200, {"Cache-Control": "public, s-maxage=0"}),
        (200, {"Set-Cookie": "seen=1"}),
        (200, {"Set-Cookie": "csrftoken=1"}),
        (200, {"Vary": "*"}),
        (200, {"Vary": "Accept-Language"}),
        (200, {"Vary": "Origin"}),
        (200, {"Vary": "Cookie, User-Agent"}),
        *[(status, {}) for status in (201, 203, 206, 301, 404, 410, 500)],
    ],
)
@run
async def test_response_that_may_not_be_shared_is_not_stored(status, headers):
    def respond(request):
        response = thing_response("x")
        response.status_code = status
        for name, value in headers.items():
            response[name] = value
        return response

    now.respond = respond
    for asked in (1, 2):
        answer = await get()
        assert (answer.status, len(now.asked)) == (status, asked)
        assert "cache-status" not in answer.headers
        names = [name for name, _ in answer.raw_headers]
        assert names.count(b"x-request-id") == 1
    assert len(response_store.memory) == 0


@run
async def test_headers_of_one_client_are_not_stored():
    now.respond = lambda request: thing_response(
        "x", RateLimit='"read";r=9;t=9', RateLimit_Policy='"read";q=9;w=9', Age="99",
        Retry_After="9", X_Request_ID="of-the-view", Cache_Status="other; hit",
    )  # fmt: skip
    first, second = await get(), await get()
    for answer in (first, second):
        fields = [name for name, _ in answer.raw_headers]
        assert len(fields) == len(set(fields))
        assert not {b"cache-tag", b"retry-after", b"set-cookie"} & set(fields)
        assert STATUS.fullmatch(answer.cached)
    assert not [name for name in second.headers if name.startswith("ratelimit")]
    assert age_of(second) < FRESH_S


@pytest.mark.parametrize("asked_for", ["no-cache", "max-age=0", "no-store"])
@run
async def test_client_cannot_bypass_the_cache(asked_for):
    for _ in range(5):
        await get(**{"Cache-Control": asked_for, "Pragma": "no-cache"})
    assert len(now.asked) == 1


@run
async def test_stale_response_is_sent_while_it_is_revalidated(set_age):
    await get()
    set_age(FRESH_S + 1)
    stale = await get()
    assert stale.is_hit
    assert FRESH_S < age_of(stale) < FRESH_S + STALE_S
    assert "ttl=-" in stale.cached
    assert STATUS.fullmatch(stale.cached)
    await becomes(lambda: len(now.asked) == 2 and not coalescing.in_flight)
    set_age(0)
    assert age_of(await get()) < FRESH_S
    assert len(now.asked) == 2


@run
async def test_stale_response_is_not_sent_where_a_change_may_have_been_missed(
    set_age, settings
):
    settings.EMBEDDED = False
    await get()
    set_age(FRESH_S / 2)
    subscriber.is_subscribed.clear()
    assert (await get()).is_hit
    set_age(FRESH_S + 1)
    assert not (await get()).is_hit
    assert len(now.asked) == 2


@run
async def test_stale_response_is_sent_for_a_day_if_the_origin_fails(set_age):
    now.respond = lambda request: page_response("text")
    await get()
    now.respond = lambda request: HttpResponse(status=500)
    set_age(24 * 3600)
    answer = await get()
    assert (answer.status, answer.is_hit) == (200, True)
    assert answer.cached.endswith("detail=origin-failed")
    assert STATUS.fullmatch(answer.cached)
    assert 24 * 3600 <= age_of(answer) <= 24 * 3600 + FRESH_S
    assert b'class="notice degraded"' in answer.body
    assert answer.headers["cache-control"] == "no-store"
    set_age(24 * 3600 + FRESH_S + 1)
    assert (await get()).status == 500


@run
async def test_notice_is_added_to_pages_only(set_age):
    """Any editor can put its placeholder into a description."""

    now.respond = lambda request: thing_response("<!-- notice -->")
    first = await get()
    now.respond = lambda request: JsonResponse({}, status=503)
    set_age(FRESH_S + STALE_S + 1)
    answer = await get()
    assert (answer.status, answer.body) == (200, first.body)


@run
async def test_deleted_resource_is_not_sent_stale(set_age):
    await get()
    set_age(FRESH_S + STALE_S + 1)
    now.respond = lambda request: HttpResponse(status=404)
    assert (await get()).status == 404
    now.respond = lambda request: HttpResponse(status=503)
    assert (await get()).status == 503
