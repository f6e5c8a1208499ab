"""Answers from memory, as RFC 9111, 5861 and 9211 have them."""

import re
import time

import pytest
from django.http import HttpResponse, JsonResponse

from resilient_site.edge.cache import cached_response as copies_module
from resilient_site.edge.cache import coalescing, invalidation_pubsub, keys
from resilient_site.resilience.cache_control import FRESH_S, STALE_S
from tests.resilient_site.edge.clients import becomes, get, run
from tests.resilient_site.edge.views import now, page_response, thing_response

pytestmark = pytest.mark.urls("tests.resilient_site.edge.views")
# RFC 9211, section 2, with the parameters that we use.
STATUS = re.compile(
    r"resilient-site; (hit|fwd=uri-miss; (stored|collapsed)); ttl=-?\d+"
    r"(; detail=[a-z-]+)?"
)


def pass_time(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let all copies be so much older."""
    moment = time.monotonic
    clock = type("Clock", (), {})()
    clock.monotonic, clock.time = lambda: moment() + seconds, time.time
    patch.setattr(copies_module, "time", clock)


@run
async def test_the_second_one_is_answered_from_memory():
    first, second = await get(), await get()
    assert (len(now.asked), first.is_hit, second.is_hit) == (1, False, True)
    assert first.body == second.body
    assert first.cached == f"resilient-site; fwd=uri-miss; stored; ttl={FRESH_S - 1}"
    assert second.headers["age"] == "0"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]


@run
async def test_the_head_is_answered_from_memory_and_says_the_length():
    whole, head = await get(), await get(method="HEAD")
    assert (head.status, head.body, head.is_hit) == (200, b"", True)
    assert head.headers["content-length"] == str(len(whole.body))


@run
async def test_a_cold_head_brings_in_the_whole():
    assert (await get(method="HEAD")).body == b""
    assert (await get()).is_hit


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"If-None-Match": '"a"'}, 304),
        ({"If-None-Match": 'W/"a"'}, 304),
        ({"If-None-Match": '"b", "a"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"b"'}, 200),
        ({"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 304),
        ({"If-Modified-Since": "Fri, 31 Dec 1999 23:59:59 GMT"}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Modified-Since": f"Sat, 01 Jan 2{'0' * 20} 00:00:00 GMT"}, 200),
        ({"If-Modified-Since": f"Sat, 1{'0' * 20} Jan 2000 00:00:00 GMT"}, 200),
        # The stronger one decides alone (RFC 9110, section 13.2.2).
        (
            {
                "If-None-Match": '"b"',
                "If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT",
            },
            200,
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions_are_evaluated_on_the_copy(condition, status, method):
    now.respond = lambda request: thing_response(
        "x", ETag='"a"', Last_Modified="Sat, 01 Jan 2000 00:00:00 GMT", X_Other="1"
    )

    @run
    async def test():
        await get()
        answer = await get(method=method, **condition)
        assert (answer.status, answer.is_hit, len(now.asked)) == (status, True, 1)
        if status == 304:
            assert answer.body == b""
            fields = answer.headers
            assert (fields["etag"], "cache-control" in fields) == ('"a"', True)
            assert not {"content-type", "content-length", "x-other"} & set(fields)

    test()


@run
async def test_a_condition_on_a_cold_key_is_not_passed_on():
    """Else its 304 would be all that there is for everybody."""
    now.respond = lambda request: thing_response("x", ETag='"a"')
    assert (await get(**{"If-None-Match": '"a"'})).status == 304
    assert (await get()).body == b'"x"'


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": "no-store, public, s-maxage=9"},
        {"Cache-Control": "private, s-maxage=9"},
        {"Cache-Control": "private, public, s-maxage=9"},
        {"Cache-Control": "no-cache, public, s-maxage=9"},
        {"Cache-Control": "public, max-age=0"},
        {"Cache-Control": "public, s-maxage=0"},
        {"Set-Cookie": "seen=1"},
        {"Set-Cookie": "csrftoken=1"},
        {"Vary": "*"},
        {"Vary": "Accept-Language"},
        {"Vary": "Cookie, User-Agent"},
    ],
)
def test_what_is_not_for_everybody_is_not_shared(headers):
    def respond(request):
        response = thing_response("x")
        for name, value in headers.items():
            response[name] = value
        return response

    now.respond = respond

    @run
    async def test():
        for asked in (1, 2):
            answer = await get()
            assert (answer.status, len(now.asked)) == (200, asked)
            assert "cache-status" not in answer.headers
        assert len(keys.response_cache) == 0

    test()


@pytest.mark.parametrize("status", [201, 203, 204, 206, 301, 404, 410, 500])
def test_only_a_plain_success_is_shared(status):
    def respond(request):
        response = thing_response("x")
        response.status_code = status
        return response

    now.respond = respond

    @run
    async def test():
        for asked in (1, 2):
            assert (await get()).status == status
            assert len(now.asked) == asked

    test()


@run
async def test_nothing_of_one_client_goes_with_a_copy():
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
    assert second.headers["age"] == "0"


@pytest.mark.parametrize("asked_for", ["no-cache", "max-age=0", "no-store"])
def test_clients_cannot_have_things_fetched_at_will(asked_for):
    @run
    async def test():
        for _ in range(5):
            await get(**{"Cache-Control": asked_for, "Pragma": "no-cache"})
        assert len(now.asked) == 1

    test()


@run
async def test_who_asks_for_a_copy_only_causes_no_fetch():
    only = {"Cache-Control": "only-if-cached"}
    answer = await get(**only)
    assert (answer.status, now.asked) == (504, [])
    await get()
    assert (await get(**only)).is_hit


@run
async def test_an_old_copy_is_shown_while_a_new_one_is_fetched():
    await get()
    with pytest.MonkeyPatch.context() as patch:
        pass_time(patch, FRESH_S + 1)
        old = await get()
        assert (old.is_hit, old.headers["age"]) == (True, str(FRESH_S + 1))
        assert "ttl=-1" in old.cached
        assert STATUS.fullmatch(old.cached)
        await becomes(lambda: len(now.asked) == 2)
        await becomes(lambda: not coalescing.in_flight)
    assert (await get()).headers["age"] == "0"
    assert len(now.asked) == 2


@run
async def test_who_may_have_missed_a_change_shows_no_old_copy_meanwhile(settings):
    settings.EMBEDDED = False
    await get()
    with pytest.MonkeyPatch.context() as patch:
        pass_time(patch, FRESH_S - 1)
        invalidation_pubsub.subscriber.is_subscribed.clear()
        assert (await get()).is_hit
        pass_time(patch, FRESH_S + 1)
        assert not (await get()).is_hit
    assert len(now.asked) == 2


@run
async def test_too_old_a_copy_is_not_shown_if_a_new_one_can_be_had():
    await get()
    with pytest.MonkeyPatch.context() as patch:
        pass_time(patch, FRESH_S + STALE_S + 1)
        assert not (await get()).is_hit
    assert len(now.asked) == 2


@run
async def test_for_want_of_a_new_one_the_last_known_is_shown_for_a_day():
    now.respond = lambda request: page_response("text")
    await get()
    now.respond = lambda request: HttpResponse(status=500)
    with pytest.MonkeyPatch.context() as patch:
        pass_time(patch, 24 * 3600)
        answer = await get()
        assert (answer.status, answer.is_hit) == (200, True)
        assert answer.cached.endswith("detail=origin-failed")
        assert STATUS.fullmatch(answer.cached)
        assert answer.headers["age"] == "86400"
        assert b'class="notice degraded"' in answer.body
        assert answer.headers["cache-control"] == "no-store"
        pass_time(patch, 24 * 3600 + FRESH_S + 1)
        assert (await get()).status == 500


@run
async def test_the_notice_is_put_on_pages_alone():
    """Anybody who may write can have these words in a description."""
    now.respond = lambda request: thing_response("<!-- notice -->")
    first = await get()
    now.respond = lambda request: JsonResponse({}, status=503)
    with pytest.MonkeyPatch.context() as patch:
        pass_time(patch, FRESH_S + STALE_S + 1)
        answer = await get()
    assert (answer.status, answer.body) == (200, first.body)


@run
async def test_what_is_gone_is_not_shown_for_want_of_a_new_one():
    await get()
    with pytest.MonkeyPatch.context() as patch:
        pass_time(patch, FRESH_S + STALE_S + 1)
        now.respond = lambda request: HttpResponse(status=404)
        assert (await get()).status == 404
        now.respond = lambda request: HttpResponse(status=503)
        assert (await get()).status == 503
