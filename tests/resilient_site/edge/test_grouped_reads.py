"""Reads of single rows that no cache has are read from the database together."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.db import DataError, OperationalError
from django_ratelimit import core

from resilient_site.accounts.verified_tokens import verified_tokens
from resilient_site.edge import wsgi_bridge
from resilient_site.edge.cache import coalescing, gathering, grouped_reads
from resilient_site.edge.cache.cached_response import CachedResponse
from resilient_site.edge.cache.invalidation import invalidations
from resilient_site.models import ApiToken
from resilient_site.resilience.cache_control import FRESH_S
from tests.factories import make_item
from tests.resilient_site.edge.clients import Answer, ask, becomes, elsewhere, get, run
from tests.resilient_site.edge.views import now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]


def hold(*, then: Callable[[], None] = lambda: None) -> None:
    """Hold the next groups until the test sets `now.go_on`."""

    def respond(request: object) -> None:
        now.entered.set()
        assert now.go_on.wait(90)
        then()

    now.respond = respond
    now.go_on.clear()


def fail() -> None:
    raise OperationalError("the connection was lost")


async def learn() -> None:
    """Have Django answer the first request, as it always does."""
    await get("/api/v1/rows/first")
    assert (len(now.asked), now.groups) == (1, [])


async def read(*ids: str, **headers: str) -> list[asyncio.Task[Answer]]:
    """Read one row, which is held, and then these."""
    tasks = [asyncio.create_task(get("/api/v1/rows/held", **headers))]
    await becomes(now.entered.is_set)
    tasks += [asyncio.create_task(get(f"/api/v1/rows/{n}", **headers)) for n in ids]
    await becomes(lambda: len(coalescing.in_flight) == len({*ids}) + 1)
    return tasks


@run
async def test_reads_that_gather_are_one_group(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    await learn()
    hold()
    tasks = await read("a", "b", "a", "c")
    now.go_on.set()
    _, *answers = await asyncio.gather(*tasks)
    assert now.groups == [["held"], ["a", "b", "c"]]
    assert [answer.json()["id"] for answer in answers] == ["a", "b", "a", "c"]
    assert len(now.asked) == 1
    assert (await get("/api/v1/rows/b")).is_hit
    assert not any(wsgi_bridge.admission.running.values())


@run
async def test_group_is_as_large_as_a_query_may_be(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    monkeypatch.setattr(gathering, "GROUP_MAX", 2)
    await learn()
    hold()
    tasks = await read("a", "b", "c")
    now.go_on.set()
    await asyncio.gather(*tasks)
    assert now.groups == [["held"], ["a", "b"], ["c"]]


@run
async def test_slow_group_holds_up_no_later_one(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 0)
    await learn()
    hold()
    held, *_ = await read()
    now.respond = lambda request: None
    assert (await get("/api/v1/rows/later")).status == 200
    assert not held.done()
    now.go_on.set()
    assert (await held).status == 200


@run
async def test_response_has_the_headers_of_django():
    await learn()
    of_django = (await get("/api/v1/rows/first")).headers
    grouped = await get("/api/v1/rows/third")
    assert now.groups == [["third"]]
    changing = {"etag": '"third"', "x-request-id": grouped.headers["x-request-id"]}
    changing["content-length"] = str(len(grouped.body))
    changing |= {name: grouped.headers[name] for name in ("cache-status", "age")}
    assert grouped.headers == of_django | changing


@run
async def test_absent_row_is_answered_by_django():
    await learn()
    assert (await get("/api/v1/rows/unknown")).status == 404
    assert now.groups == [["unknown"]]


@run
async def test_query_is_answered_by_django():
    await learn()
    assert (await get("/api/v1/rows/a?q=1")).status == 200
    assert (now.groups, len(now.asked)) == ([], 2)


@run
async def test_failure_of_the_database_is_that_of_the_whole_group(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    await learn()
    await get("/api/v1/rows/known")
    invalidations.record(["row:known"])
    hold(then=fail)
    tasks = await read("known", "a")
    now.go_on.set()
    held, known, new = await asyncio.gather(*tasks)
    assert [held.status, new.status] == [503, 503]
    assert (known.status, "origin-failed" in known.cached) == (200, True)
    assert len(now.asked) == 1
    assert not any(wsgi_bridge.admission.running.values())


@run
async def test_error_of_the_view_itself_is_met_by_django(caplog):
    await learn()

    def respond(request: object) -> None:
        raise KeyError("a bug")

    now.respond = respond
    assert (await get("/api/v1/rows/a")).status == 200
    assert len(now.asked) == 2
    assert "Reading many at once failed." in caplog.text


@run
async def test_value_that_the_database_refuses_fails_no_other_read(monkeypatch, caplog):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    await learn()

    def refuse() -> None:
        raise DataError("one of the values")

    hold(then=refuse)
    tasks = await read("a", "b")
    now.go_on.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_connection_stays")
@run
async def test_null_character_in_an_id_fails_no_other_read():
    await elsewhere(make_item, id="bolt")
    await elsewhere(make_item, id="nut")
    await get("/api/v1/items/bolt")
    ids = ["nut", "nut%00"]
    both = await asyncio.gather(*[get(f"/api/v1/items/{n}") for n in ids])
    assert [answer.status for answer in both] == [200, 404]


@run
async def test_header_that_cannot_be_sent_keeps_no_read_waiting(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    await learn()
    hold()
    # The ETag of such a row has its id.
    tasks = await read("\u4f60", "a")
    now.go_on.set()
    *_, a = await asyncio.gather(*tasks)
    assert a.status == 200


@run
async def test_request_after_a_change_starts_a_read_of_its_own(monkeypatch):
    await learn()
    hold()
    tasks = await read()
    invalidations.record(["row:held"])
    tasks.append(asyncio.create_task(get("/api/v1/rows/held")))
    await becomes(lambda: len(now.groups) == 2)
    now.go_on.set()
    await asyncio.gather(*tasks)
    assert now.groups == [["held"], ["held"]]


@run
async def test_abandoned_read_is_not_made(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    monkeypatch.setattr(coalescing, "ABANDONED_GRACE_S", 0)
    await learn()
    hold()
    tasks = await read("a")
    gone = asyncio.Event()
    left = asyncio.create_task(ask("/api/v1/rows/left", gone=gone))
    await becomes(lambda: len(coalescing.in_flight) == 3)
    gone.set()
    assert (await left).status == 0
    await becomes(lambda: any(f.is_given_up for f in coalescing.in_flight.values()))
    now.go_on.set()
    await asyncio.gather(*tasks)
    assert now.groups == [["held"], ["a"]]


@run
async def test_private_site_has_no_groups(settings):
    settings.PUBLIC_READ = False
    await get("/api/v1/rows/a")
    await get("/api/v1/rows/b")
    assert now.groups == []


@run
async def test_client_beyond_its_quota_is_rejected_by_django(settings):
    settings.RATE_LIMITS = {"anonymous-read": ("read", "anonymous", 2, 3600)}
    await learn()
    assert (await get("/api/v1/rows/a")).status == 200
    assert (await get("/api/v1/rows/b")).status == 200
    assert len(now.asked) == 1
    assert (await get("/api/v1/rows/c")).status == 429
    assert len(now.asked) == 1


@run
async def test_absent_row_is_counted_once(monkeypatch):
    monkeypatch.setattr(core, "time", SimpleNamespace(time=lambda: 1_800_000_000.0))
    await learn()
    answers = [await get(f"/api/v1/rows/un{n}") for n in "ab"]
    left = [int(a.headers["ratelimit"].split(";")[1][2:]) for a in answers]
    assert left[0] - left[1] == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_connection_stays")
@run
async def test_user_beyond_its_quota_has_none_of_its_address(reader: User, settings):
    settings.RATE_LIMITS = {"read": ("read", "authenticated", 1, 3600)}
    await learn()
    _, token = await elsewhere(ApiToken.objects.create, reader)
    header = f"Token {token}"
    await elsewhere(verified_tokens().verify, header.encode(), "")
    answers = [await get(f"/api/v1/rows/{n}", authorization=header) for n in "abc"]
    assert [answer.status for answer in answers] == [200, 429, 429]
    # Neither was counted again by Django, nor read.
    assert (answers[2].headers["ratelimit"][:10], len(now.asked)) == ('"read";r=0', 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_connection_stays")
@run
async def test_client_with_a_valid_token_is_in_a_group(reader: User):
    await learn()
    _, token = await elsewhere(ApiToken.objects.create, reader)
    header = f"Token {token}"
    assert not any(map(verified_tokens().is_valid, [header]))
    await elsewhere(verified_tokens().verify, header.encode(), "")
    assert (await get("/api/v1/rows/a", authorization=header)).json() == {"id": "a"}
    assert now.groups == [["a"]]
    wrong = await get("/api/v1/rows/b", authorization="Token wrong")
    assert (now.groups, wrong.status, len(now.asked)) == ([["a"]], 200, 2)
    invalidations.record(["row:a"])
    assert (await get("/api/v1/rows/a")).status == 200
    assert now.groups == [["a"], ["a"]]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_connection_stays")
@run
async def test_client_with_a_token_is_sent_no_response_that_is_not_fresh(
    reader: User, monkeypatch
):
    """Its change may be missing there, if Redis failed for the machine that made it."""
    await learn()
    _, token = await elsewhere(ApiToken.objects.create, reader)
    header = f"Token {token}"
    await elsewhere(verified_tokens().verify, header.encode(), "")
    await get("/api/v1/rows/a")
    monkeypatch.setattr(CachedResponse, "age", FRESH_S + 1)
    assert (await get("/api/v1/rows/a")).is_hit
    # Else it would share the read that is under way.
    await becomes(lambda: now.groups == [["a"], ["a"]] and not coalescing.in_flight)
    assert not (await get("/api/v1/rows/a", authorization=header)).is_hit
    assert now.groups == [["a"]] * 3


@run
async def test_impatient_client_ends_no_read_of_others(monkeypatch):
    monkeypatch.setattr(gathering, "ALONE_S", 90)
    await learn()
    hold()
    tasks = await read("a")
    impatient = await get("/api/v1/rows/b", x_request_timeout="1ms")
    assert impatient.status == 503
    now.go_on.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
    assert not coalescing.paused


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_connection_stays")
@run
async def test_item_in_a_group_is_answered_as_by_django():
    await elsewhere(make_item, id="bolt", tags=["metal"])
    await elsewhere(make_item, id="nut")
    both = [await get("/api/v1/items/bolt")]
    coalescing.response_store.memory.__init__(10**6)  # type: ignore[misc]
    await get("/api/v1/items/nut")
    coalescing.response_store.memory.__init__(10**6)  # type: ignore[misc]
    both.append(await get("/api/v1/items/bolt"))
    assert both[0].body == both[1].body
    # In the second of its change an item has no Last-Modified.
    its_own = {"x-request-id", "last-modified", "cache-status", "age"}
    kept = [{n: v for n, v in one.headers.items() if n not in its_own} for one in both]
    assert kept[0] == kept[1]
    assert len(grouped_reads.readers) == 1
