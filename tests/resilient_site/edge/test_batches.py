"""A batch is answered of the cached responses to the GETs of its values."""

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpResponse

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.admission import Rejected
from resilient_site.edge.cache import batches, cached_response, store
from resilient_site.edge.cache.invalidation import invalidations, mark, subscriber
from resilient_site.edge.cache.invalidation import now as moment
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.request import Priority
from resilient_site.resilience.cache_control import FRESH_S
from tests.resilient_site.edge.clients import Answer, ask, becomes, get, run
from tests.resilient_site.edge.views import now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]
WORDS = "/api/v1/words"
# What differs between two responses to the same request.
OF_ONE_REQUEST = {"age", "cache-status", "x-request-id", "date", "ratelimit", "etag"}


async def post(body: Any, target: str = WORDS, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json"} | {
        name.lower().replace("_", "-"): value for name, value in headers.items()
    }
    fields["content-length"] = str(len(content))
    sent = [(name.encode(), value.encode()) for name, value in fields.items()]
    return await ask(target, "POST", sent, [content])


def fail(request: Any) -> HttpResponse:
    return HttpResponse("no", status=503)


@pytest.fixture
def set_age(monkeypatch):
    real = time.monotonic

    def set_age(seconds: float) -> None:
        clock = SimpleNamespace(monotonic=lambda: real() + seconds, time=time.time)
        monkeypatch.setattr(cached_response, "time", clock)

    return set_age


@run
async def test_batch_is_a_cache_hit_when_each_value_was_fetched():
    await post({"words": ["a", "b&c/ä", "unreal"]})
    await get(f"{WORDS}?word=d")
    admitted = dict(wsgi_bridge.admission.admitted)
    answer = await post({"words": ["d", "b&c/ä", "unreal", "a", "a"]})
    assert (answer.status, answer.is_hit) == (200, True)
    results = answer.json()["results"]
    assert [one["word"] for one in results] == ["d", "b&c/ä", "unreal", "a", "a"]
    assert results[2] == {"word": "unreal", "known": False}
    assert (results[0]["n"], results[1]["n"]) == (2, 1)
    assert answer.headers["content-length"] == str(len(answer.body))
    assert wsgi_bridge.admission.admitted == admitted  # a hit takes no thread


@run
async def test_get_is_the_same_response_fetched_by_itself_or_in_a_batch():
    fetched = await post({"words": ["a", "unreal"], "case": "1"})
    cached = await post({"words": ["a", "unreal"], "case": "1"})
    assert (cached.is_hit, cached.body) == (True, fetched.body)
    targets = [f"{WORDS}?word=a&case=1", f"{WORDS}?case=1&word=unreal"]
    of_batch = [await get(target) for target in targets]
    response_store.memory.__init__(2**20)  # type: ignore[misc]
    by_itself = [await get(target) for target in targets]
    for one, other in zip(of_batch, by_itself, strict=True):
        assert (one.is_hit, other.is_hit) == (True, False)
        assert shown(one) == shown(other)


def shown(answer: Answer) -> Any:
    """Return what is the same for all requests."""
    kept = {n: v for n, v in answer.headers.items() if n not in OF_ONE_REQUEST}
    content = {n: v for n, v in answer.json().items() if n not in ("n", "request_id")}
    return answer.status, kept, content


@run
async def test_cached_problem_has_the_id_of_each_request():
    await post({"words": ["unreal"]})
    first, second = await get(f"{WORDS}?word=unreal"), await get(f"{WORDS}?word=unreal")
    for answer in (first, second):
        assert (answer.status, answer.is_hit) == (404, True)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert (problem["instance"], problem["code"]) == (WORDS, "not_found")
        assert answer.headers["content-length"] == str(len(answer.body))
    assert first.json()["request_id"] != second.json()["request_id"]
    assert (await get(f"{WORDS}?word=unreal", "HEAD")).body == b""
    assert (await get(f"{WORDS}?word=unreal", If_None_Match="*")).status == 404


@run
async def test_change_of_one_value_ends_the_hit():
    await post({"words": ["a", "unreal"]})
    for tag in ("word:a", "words"):
        invalidations.record([tag])
        await becomes(
            lambda: invalidations.is_current(mark(moment(), ["words", "word:a"]))
        )
        assert not (await post({"words": ["a", "unreal"]})).is_hit
        assert (await post({"words": ["unreal", "a"]})).is_hit


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON", b"[]", b"7", b'{"words": 1}', b'{"words": []}', b'{"words": [1]}',
        {}, b"", {"words": ["a"] * 6}, {"words": ["a" * 1024]},
        {"words": ["a"], "case": 1}, {"words": ["a"], "word": "a"},
        {"words": ["a"], "other": "a"},
        {"words": ["a" * batches.BODY_MAX_BYTES]},
    ],
)  # fmt: skip
@run
async def test_other_bodies_are_for_django(body):
    now.respond = lambda request: HttpResponse("ok")
    for asked in (1, 2):
        answer = await post(body)
        assert not answer.is_hit
        assert len(now.asked) == asked


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Prefer": "handling=lenient"},
        {"If_None_Match": '"1"'},
        {"Cookie": "sessionid=unknown"},
    ],
)
@run
async def test_other_requests_are_for_django(headers):
    await post({"words": ["a"]})
    assert (await post({"words": ["a"]})).is_hit
    assert not (await post({"words": ["a"]}, **headers)).is_hit
    assert not (await post({"words": ["a"]}, WORDS + "?word=b")).is_hit


@run
async def test_private_site_shares_no_batch(settings):
    settings.PUBLIC_READ = False
    for _ in range(2):
        assert not (await post({"words": ["a"]})).is_hit
    assert len(response_store.memory) == 0


@run
async def test_older_values_are_sent_while_they_are_fetched_together(
    set_age, monkeypatch
):
    subscriber.is_subscribed.set()
    for words in (["a", "b"], ["c", "d"]):
        await post({"words": words})
    set_age(FRESH_S + 1)
    monkeypatch.setattr(batches, "GATHER_S", 2)
    fetched = len(now.asked)
    for words in (["a", "b"], ["c"], ["a"]):
        answer = await post({"words": words})
        assert answer.is_hit
        assert int(answer.headers["age"]) > FRESH_S
    await becomes(lambda: not batches._fetches)
    (together,) = now.asked[fetched:]
    assert together["words"] == ["a", "b", "c"]
    assert (together["cookie"], together["authorization"]) == (None, None)
    assert (await post({"words": ["a", "b", "c"]})).json()["results"][0]["n"] == 3


@run
async def test_failed_fetch_of_older_values_leaves_them(set_age):
    await post({"words": ["a"]})
    set_age(FRESH_S + 1)
    now.respond = fail
    for _ in range(2):
        assert (await post({"words": ["a"]})).is_hit
        await becomes(lambda: not batches._fetches)
    assert len(now.asked) == 3  # each time anew


@pytest.mark.parametrize("written_every_s", [600, 0])
@run
async def test_value_that_is_as_before_is_written_out_now_and_then(
    set_age, monkeypatch, written_every_s
):
    monkeypatch.setattr(store, "WRITTEN_EVERY_S", written_every_s)
    await post({"words": ["unreal"]})
    response_store.flush().result()
    set_age(FRESH_S + 1)
    assert (await post({"words": ["unreal"]})).is_hit
    await becomes(lambda: not batches._fetches)
    assert len(now.asked) == 2
    assert bool(response_store._pending) is (written_every_s == 0)


@pytest.mark.parametrize("is_in_memory", [True, False])
@run
async def test_stale_batch_is_sent_when_django_fails(is_in_memory):
    await post({"words": ["a", "unreal"]})
    await get(f"{WORDS}?word=b")
    invalidations.record(["word:a", "word:b", "words"])
    if not is_in_memory:
        response_store.flush().result()
        response_store.memory.__init__(2**20)  # type: ignore[misc]
    now.respond = fail
    answer = await post({"words": ["b", "unreal", "a"]})
    assert (answer.status, answer.cached.partition("detail=")[2]) == (
        200, "origin-failed",
    )  # fmt: skip
    assert [one["word"] for one in answer.json()["results"]] == ["b", "unreal", "a"]
    assert (await post({"words": ["a", "never"]})).status == 503


@run
async def test_stale_batch_is_sent_when_it_is_rejected(monkeypatch):
    await post({"words": ["a"]})
    invalidations.record(["word:a"])

    def reject(*args: object) -> None:
        raise Rejected

    monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    answer = await post({"words": ["a"]})
    assert (answer.status, "origin-failed" in answer.cached) == (200, True)
    assert (await post({"words": ["b"]})).status == 503


@run
async def test_batch_is_admitted_as_a_read():
    await post({"words": ["a"]})
    admitted = wsgi_bridge.admission.admitted
    assert {p: n for p, n in admitted.items() if n} == {Priority.ANONYMOUS_READ: 1}
