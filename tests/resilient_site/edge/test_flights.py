"""One fetch for all who ask for the same, and what is written meanwhile."""

import asyncio
import subprocess
import sys

import pytest
from django.http import HttpResponse

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.admission import Admission
from resilient_site.edge.cache import coalescing, keys
from resilient_site.edge.cache.invalidation import PRECISION_NS, invalidations
from resilient_site.edge.cache.invalidation import now as moment
from resilient_site.resilience import deadlines
from tests.resilient_site.edge.clients import ask, becomes, get, run
from tests.resilient_site.edge.views import held, now, thing_response
from tests.running import ROOT

pytestmark = pytest.mark.urls("tests.resilient_site.edge.views")


def hold(state: dict) -> None:
    """Let the view read `state`, then wait before it answers."""
    now.respond = held(lambda: thing_response(dict(state)))
    now.go_on.clear()


def wait_out_the_blur() -> None:
    began = moment()
    while moment() - began <= PRECISION_NS:
        pass


@run
async def test_many_who_ask_at_once_cause_one_fetch():
    hold({"n": 1})
    asking = [asyncio.create_task(get()) for _ in range(200)]
    await becomes(now.entered.is_set)
    now.go_on.set()
    answers = await asyncio.gather(*asking)
    assert {(a.status, a.json()["n"]) for a in answers} == {(200, 1)}
    assert len({a.headers["x-request-id"] for a in answers}) == 200
    assert sum("collapsed" in a.cached for a in answers) == 199
    assert len(now.asked) == 1


@run
async def test_the_others_are_answered_when_the_first_one_goes():
    hold({"n": 1})
    gone = asyncio.Event()
    first = asyncio.create_task(ask("/thing", gone=gone))
    await becomes(now.entered.is_set)
    others = [asyncio.create_task(get()) for _ in range(20)]
    gone.set()
    first.cancel()
    await asyncio.sleep(0)
    now.go_on.set()
    assert [a.status for a in await asyncio.gather(*others)] == [200] * 20
    assert len(now.asked) == 1


def test_what_nobody_waits_for_is_given_up_and_fetched_for_the_next_one(monkeypatch):
    monkeypatch.setattr(coalescing, "ABANDONED_GRACE_S", 0.05)
    was_over: list[bool] = []

    def respond(request):
        if len(now.asked) == 1:
            now.entered.set()
            assert now.go_on.wait(20)
            was_over.append(deadlines.is_expired())
            return HttpResponse(status=503)
        return thing_response("x")

    @run
    async def test():
        now.respond = respond
        now.go_on.clear()
        gone = [asyncio.Event() for _ in range(3)]
        asking = [asyncio.create_task(ask("/thing", gone=one)) for one in gone]
        await becomes(now.entered.is_set)
        for one in gone:
            one.set()
        assert [a.status for a in await asyncio.gather(*asking)] == [0] * 3
        await asyncio.sleep(0.1)
        assert (await get()).json() == "x"
        now.go_on.set()
        await becomes(lambda: not any(wsgi_bridge.admission.running.values()))
        assert was_over == [True]
        assert (await get()).is_hit

    test()


@run
async def test_who_comes_soon_after_the_last_one_has_gone_shares_his_fetch():
    hold({"n": 1})
    gone = asyncio.Event()
    first = asyncio.create_task(ask("/thing", gone=gone))
    await becomes(now.entered.is_set)
    gone.set()
    assert (await first).status == 0
    next_one = asyncio.create_task(get())
    await asyncio.sleep(0.01)
    now.go_on.set()
    assert (await next_one).json()["n"] == 1
    assert len(now.asked) == 1


@run
async def test_the_failure_of_the_fetch_is_told_to_all():
    now.respond = held(lambda: HttpResponse(status=500))
    now.go_on.clear()
    asking = [asyncio.create_task(get()) for _ in range(20)]
    await becomes(now.entered.is_set)
    now.go_on.set()
    first, *others = await asyncio.gather(*asking)
    assert first.status == 500
    assert {a.status for a in others} == {500}
    # One fetch; its private part goes to no other client.
    assert not coalescing.in_flight
    assert not any(wsgi_bridge.admission.running.values())


@run
async def test_the_refusal_of_the_first_one_is_his_alone():
    def respond(request):
        is_first = len(now.asked) == 1
        if is_first:
            now.entered.set()
            assert now.go_on.wait(20)
        return HttpResponse(status=429) if is_first else thing_response("x")

    now.respond = respond
    now.go_on.clear()
    asking = [asyncio.create_task(get()) for _ in range(3)]
    await becomes(now.entered.is_set)
    now.go_on.set()
    first, *others = await asyncio.gather(*asking)
    assert first.status == 429
    assert {a.status for a in others} == {200}


@run
async def test_who_has_no_time_waits_no_longer_and_disturbs_nobody():
    hold({"n": 1})
    hasty = await get(**{"X-Request-Timeout": "20ms"})
    assert (hasty.status, hasty.headers["retry-after"]) == (503, "1")
    patient = asyncio.create_task(get())
    await asyncio.sleep(0)
    now.go_on.set()
    assert (await patient).status == 200
    assert len(now.asked) == 1


@run
async def test_the_haste_of_one_gives_nobody_an_outdated_answer():
    state = {"n": 1}
    hold(state)
    now.go_on.set()
    await get()
    invalidations.record(["thing"])
    state["n"] = 2
    now.go_on.clear()
    hasty = await get(**{"X-Request-Timeout": "20ms"})
    assert hasty.json()["n"] == 1  # the last known
    assert "origin-failed" in hasty.cached
    now.go_on.set()
    assert (await get()).json()["n"] == 2


@run
async def test_a_change_is_seen_by_the_next_one_who_asks():
    state = {"n": 1}
    hold(state)
    now.go_on.set()
    for n in range(2, 12):
        assert (await get()).json()["n"] == n - 1
        state["n"] = n
        invalidations.record(["thing"])


@run
async def test_a_change_of_another_process_is_seen_by_the_next_one_who_asks(settings):
    await get()
    wait_out_the_blur()
    await get()
    asked = len(now.asked)
    code = (
        "import sys; from pathlib import Path; from django.conf import settings\n"
        "settings.configure(DATA_DIR=Path(sys.argv[1]))\n"
        "from resilient_site.edge.cache.invalidation import invalidations\n"
        "invalidations.record(['thing'])"
    )
    subprocess.run(
        [sys.executable, "-c", code, invalidations.folder], cwd=ROOT, check=True
    )
    assert not (await get()).is_hit
    assert len(now.asked) == asked + 1


@run
async def test_what_was_read_before_a_change_is_never_kept_as_current():
    state = {"n": 1}
    hold(state)
    early = asyncio.create_task(get())
    await becomes(now.entered.is_set)  # it has read, and not answered

    state["n"] = 2
    invalidations.record(["thing"])
    now.entered.clear()
    late = asyncio.create_task(get())
    await becomes(now.entered.is_set)
    # A request after the change does not wait for what was read before it.
    assert len(now.asked) == 2
    now.go_on.set()
    assert (await early).json()["n"] == 1
    assert (await late).json()["n"] == 2
    assert (await get()).json()["n"] == 2


@run
async def test_an_early_fetch_that_ends_late_does_not_displace_the_newer_one():
    states = iter([1, 2, 3])

    def respond(request):
        n = next(states)
        if n == 1:
            now.entered.set()
            assert now.go_on.wait(20)
        return thing_response({"n": n})

    now.respond = respond
    now.go_on.clear()
    early = asyncio.create_task(get())
    await becomes(now.entered.is_set)
    invalidations.record(["thing"])
    wait_out_the_blur()
    assert (await get()).json()["n"] == 2
    now.go_on.set()
    assert (await early).json()["n"] == 1
    assert (await get()).json()["n"] == 2
    assert (await get()).is_hit


@run
async def test_a_failing_origin_is_asked_once_a_moment():
    now.respond = lambda request: thing_response("old")
    await get()
    invalidations.record(["thing"])
    now.respond = lambda request: HttpResponse(status=503)
    asked = len(now.asked)
    for _ in range(50):
        answer = await get()
        assert (answer.status, answer.json()) == (200, "old")
    assert len(now.asked) == asked + 1


@run
async def test_fetches_give_their_threads_back(monkeypatch, settings):
    admission = Admission(2, settings.ADMISSION_PATIENCE_S)
    monkeypatch.setattr(wsgi_bridge, "admission", admission)
    for n in range(20):
        await asyncio.gather(*(get(f"/thing/{n}-{m}") for m in range(3)))
    assert not any(wsgi_bridge.admission.running.values())
    assert not coalescing.in_flight
    assert len(keys.response_cache) <= 60
