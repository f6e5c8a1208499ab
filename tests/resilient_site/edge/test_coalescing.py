"""Concurrent requests for one response cause one fetch, which is never outdated."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from django.http import HttpResponse

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.cache import coalescing
from resilient_site.edge.cache.invalidation import invalidations
from resilient_site.resilience import deadlines
from tests.clock import Clock
from tests.resilient_site.edge.clients import Answer, ask, becomes, get, run
from tests.resilient_site.edge.views import held, now, thing_response

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]
IMPATIENT = {"X-Request-Timeout": "20ms"}


def hold(state: dict) -> None:
    """Let the view read `state`, then wait before it responds."""
    now.respond = held(lambda: thing_response(dict(state)))
    now.go_on.clear()


async def start(
    count: int = 1, gone: asyncio.Event | None = None
) -> list[asyncio.Task[Answer]]:
    """Send so many requests at once; return when the view runs."""
    tasks = [asyncio.create_task(ask("/thing", gone=gone)) for _ in range(count)]
    await becomes(now.entered.is_set)
    return tasks


@run
async def test_concurrent_requests_cause_one_fetch():
    hold({"n": 1})
    requests = await start(200)
    now.go_on.set()
    answers = await asyncio.gather(*requests)
    assert {(a.status, a.json()["n"]) for a in answers} == {(200, 1)}
    assert len({a.headers["x-request-id"] for a in answers}) == 200
    assert sum("collapsed" in a.cached for a in answers) == 199
    assert len(now.asked) == 1


@run
async def test_fetch_goes_on_when_the_client_that_started_it_leaves():
    hold({"n": 1})
    gone = asyncio.Event()
    (first,) = await start(gone=gone)
    others = [asyncio.create_task(get()) for _ in range(20)]
    gone.set()
    first.cancel()
    await asyncio.sleep(0)
    now.go_on.set()
    assert [a.status for a in await asyncio.gather(*others)] == [200] * 20
    assert len(now.asked) == 1


@run
async def test_abandoned_fetch_expires_and_the_next_request_has_its_own(monkeypatch):
    monkeypatch.setattr(coalescing, "ABANDONED_GRACE_S", 0.05)
    expired: list[bool] = []

    def respond(request):
        if len(now.asked) == 1:
            now.entered.set()
            assert now.go_on.wait(90)
            expired.append(deadlines.is_expired())
            return HttpResponse(status=503)
        return thing_response("x")

    now.respond = respond
    now.go_on.clear()
    gone = asyncio.Event()
    requests = await start(3, gone)
    gone.set()
    assert [a.status for a in await asyncio.gather(*requests)] == [0] * 3
    (flight,) = coalescing.in_flight.values()
    await becomes(lambda: flight.is_given_up)
    assert (await get()).json() == "x"
    now.go_on.set()
    await becomes(lambda: not any(wsgi_bridge.admission.running.values()))
    assert expired == [True]
    assert (await get()).is_hit


@pytest.mark.parametrize(("status", "is_shared"), [(500, True), (429, False)])
@run
async def test_failure_is_shared_but_no_rejection_of_one_client(status, is_shared):
    def respond(request):
        is_first = len(now.asked) == 1
        if is_first:
            now.entered.set()
            assert now.go_on.wait(90)
        return HttpResponse(status=status) if is_first else thing_response("x")

    now.respond = respond
    now.go_on.clear()
    requests = await start(20)
    now.go_on.set()
    first, *others = await asyncio.gather(*requests)
    assert first.status == status
    assert {a.status for a in others} == {500 if is_shared else 200}
    assert not coalescing.in_flight
    assert not any(wsgi_bridge.admission.running.values())


@run
async def test_deadline_of_one_client_ends_no_fetch_of_others():
    hold({"n": 1})
    impatient = await get(**IMPATIENT)
    assert (impatient.status, impatient.headers["retry-after"]) == (503, "1")
    patient = asyncio.create_task(get())
    await asyncio.sleep(0)
    now.go_on.set()
    assert (await patient).status == 200
    assert len(now.asked) == 1


@run
async def test_response_read_before_a_change_is_not_cached_as_current():
    state = {"n": 1}
    hold(state)
    (early,) = await start()  # it has read, and not responded
    state["n"] = 2
    invalidations.record(["thing"])
    now.entered.clear()
    (late,) = await start()
    # A request after the change does not wait for what was read before it.
    assert len(now.asked) == 2
    now.go_on.set()
    assert (await early).json()["n"] == 1
    assert (await late).json()["n"] == 2
    assert (await get()).json()["n"] == 2


@pytest.fixture
def frozen(monkeypatch) -> Clock:
    """The clock of fetches, which stands still."""
    clock = Clock()
    clock.now = time.monotonic()
    monkeypatch.setattr(coalescing, "time", SimpleNamespace(monotonic=clock))
    return clock


@run
async def test_failing_origin_is_tried_again_after_a_pause(frozen):
    now.respond = lambda request: thing_response("old")
    await get()
    invalidations.record(["thing"])
    now.respond = lambda request: HttpResponse(status=503)
    for passing_s, asked in ((0, 2), (0.5, 2), (0.5, 3), (0, 3)):
        frozen.now += passing_s
        answer = await get()
        assert (answer.status, answer.json()) == (200, "old")
        assert len(now.asked) == asked


@run
async def test_change_is_seen_at_once_after_the_origin_has_recovered(frozen):
    now.respond = lambda request: HttpResponse(status=503)
    assert (await get()).status == 503
    for state in ("first", "second"):
        now.respond = lambda request, state=state: thing_response(state)
        assert (await get()).json() == state
        invalidations.record(["thing"])
