"""Concurrent requests for one response cause one fetch, which is never outdated."""

import asyncio
import gc
import time
from types import SimpleNamespace

import pytest
from django.http import HttpResponse

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.admission import LIGHT, DrainRate, Rejected
from resilient_site.edge.cache import coalescing
from resilient_site.edge.cache.invalidation import invalidations
from resilient_site.edge.cache.store import ResponseCache, response_store
from resilient_site.edge.request import Priority
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


@pytest.fixture
def frozen(monkeypatch) -> Clock:
    """The clock of fetches, which stands still."""
    clock = Clock()
    clock.now = float(int(time.monotonic()))  # exact in sums
    monkeypatch.setattr(coalescing, "time", SimpleNamespace(monotonic=clock))
    return clock


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
async def test_fetch_goes_on_when_the_client_that_started_it_leaves(monkeypatch):
    monkeypatch.setattr(coalescing, "ABANDONED_GRACE_S", 0)
    hold({"n": 1})
    gone = asyncio.Event()
    (first,) = await start(gone=gone)
    others = [asyncio.create_task(get()) for _ in range(20)]
    (flight,) = coalescing.in_flight.values()
    await becomes(lambda: flight.waiting == 21)
    gone.set()
    assert (await first).status == 0
    await asyncio.sleep(0)  # it is looked at whether others wait
    await asyncio.sleep(0)
    assert not flight.is_given_up
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
    assert not coalescing.paused
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


def reject(*args: object) -> None:
    raise Rejected


@run
async def test_overload_rejects_no_request_that_waits_for_the_fetch_of_another(
    monkeypatch,
):
    hold({"n": 1})
    (first,) = await start()
    monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    joining = asyncio.create_task(get())
    assert (await get("/thing?q=other")).status == 503
    now.go_on.set()
    assert [(await first).status, (await joining).status] == [200, 200]
    # It was not tried in vain.
    assert not coalescing.paused


async def take_all_threads() -> list[asyncio.Task[Answer]]:
    hold({})
    admission = wsgi_bridge.admission
    threads = admission.threads - admission.heavy_max
    inside = [asyncio.create_task(get(f"/thing/{n}")) for n in range(threads)]
    await becomes(lambda: len(now.asked) == threads)
    return inside


@run
async def test_fetch_that_is_abandoned_in_the_queue_is_not_made():
    logged: list[object] = []
    handler = lambda loop, context: logged.append(context)  # noqa: E731
    asyncio.get_running_loop().set_exception_handler(handler)
    inside, gone = await take_all_threads(), asyncio.Event()
    abandoned = asyncio.create_task(ask("/thing", gone=gone))
    await becomes(lambda: len(coalescing.in_flight) > len(inside))
    gone.set()
    assert (await abandoned).status == 0
    flights = [one for one in coalescing.in_flight.values() if not one.waiting]
    await becomes(lambda: [one.is_given_up for one in flights] == [True])
    now.go_on.set()
    await asyncio.gather(*inside)
    await becomes(flights.pop().task.done)
    assert len(now.asked) == len(inside)
    assert not coalescing.paused
    gc.collect()
    assert not logged


@run
async def test_fetch_that_is_rejected_in_the_queue_is_not_tried_again_at_once(frozen):
    inside = await take_all_threads()
    wsgi_bridge.admission.patience_s[Priority.ANONYMOUS_READ] = 0.01
    rejected = await get()
    assert (rejected.status, rejected.headers["retry-after"]) == (503, "1")
    paused = [(key.path, until) for key, until in coalescing.paused.items()]
    assert paused == [("/thing", frozen.now + 1)]
    now.go_on.set()
    await asyncio.gather(*inside)


@run
async def test_request_is_rejected_where_another_waits_already():
    inside, admission = await take_all_threads(), wsgi_bridge.admission
    admission.patience_s[Priority.ANONYMOUS_READ] = 60.0
    pool = admission.pools[Priority.ANONYMOUS_READ]
    pool.rate = DrainRate(LIGHT, 0.1, 1.0, time.monotonic)
    targets = ("/thing", "/thing?q=other")
    waiting, rejected = [asyncio.create_task(get(target)) for target in targets]
    assert (await rejected).status == 503
    assert not coalescing.paused
    now.go_on.set()
    assert (await waiting).status == 200
    await asyncio.gather(*inside)


@pytest.mark.parametrize(
    ("is_overload", "searches", "status"),
    [(False, 0, 200), (False, 4, 200), (True, 3, 200), (True, 4, 503)],
)
@run
async def test_few_requests_at_a_time_search_the_disk_in_an_overload(
    monkeypatch, is_overload, searches, status
):
    before = await get()
    response_store.flush().result()
    response_store.memory = ResponseCache(response_store.memory.max_bytes)
    monkeypatch.setattr(response_store, "reads", searches)
    now.respond = lambda request: HttpResponse(status=503)
    if is_overload:
        monkeypatch.setattr(wsgi_bridge.admission, "check", reject)
    assert (await get("/plain", "POST")).status == 503
    answer = await get()
    assert answer.status == status
    assert (answer.body == before.body) == (status == 200)


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


@run
async def test_failing_origin_is_tried_again_after_a_pause(frozen):
    now.respond = lambda request: thing_response("old")
    await get()
    invalidations.record(["thing"])
    now.respond = lambda request: HttpResponse(status=500)
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
