"""However a request ends, it frees its place; no request is served too late."""

import asyncio

import pytest
from django.http import HttpResponse, StreamingHttpResponse

from resilient_site.edge import wsgi_bridge
from tests.resilient_site.edge.clients import ask, becomes, run
from tests.resilient_site.edge.views import held, now

pytestmark = pytest.mark.urls("tests.resilient_site.edge.views")


async def all_taken() -> list[asyncio.Task]:
    """Take all places for what is light, until the test says go on."""
    now.respond = held(HttpResponse)
    now.go_on.clear()
    admission = wsgi_bridge.admission
    places = admission.threads - admission.heavy_max
    inside = [asyncio.create_task(ask("/plain")) for _ in range(places)]
    await becomes(lambda: len(now.asked) == places)
    return inside


def assert_all_free() -> None:
    assert not any(wsgi_bridge.admission.running.values())
    assert not any(wsgi_bridge.admission.queued.values())


@pytest.mark.parametrize("target", ["/plain", "/thing"])
def test_who_goes_while_he_waits_is_not_served(target):
    @run
    async def test():
        inside = await all_taken()
        gone = asyncio.Event()
        waiting = asyncio.create_task(ask(target, gone=gone))
        await becomes(lambda: sum(wsgi_bridge.admission.queued.values()) == 1)
        gone.set()
        await asyncio.sleep(0.01)
        now.go_on.set()
        await asyncio.gather(*inside, waiting)
        assert len(now.asked) == len(inside)
        assert_all_free()

    test()


@run
async def test_who_is_cancelled_while_he_waits_is_not_served():
    inside = await all_taken()
    waiting = asyncio.create_task(ask("/plain"))
    await becomes(lambda: sum(wsgi_bridge.admission.queued.values()) == 1)
    waiting.cancel()
    now.go_on.set()
    await asyncio.gather(*inside, waiting, return_exceptions=True)
    assert len(now.asked) == len(inside)
    assert_all_free()


def fail(request):
    raise ValueError("A fault of ours.")


def fail_in_the_middle(request):
    def pieces():
        yield b"x"
        raise ValueError("A fault of ours.")

    return StreamingHttpResponse(pieces())


@pytest.mark.parametrize("respond", [fail, fail_in_the_middle])
@pytest.mark.parametrize("target", ["/plain", "/thing", "/jobs/new/"])
def test_a_view_that_fails_keeps_no_place(respond, target):
    @run
    async def test():
        now.respond = respond
        for _ in range(2 * wsgi_bridge.admission.threads):
            results = await asyncio.gather(ask(target), return_exceptions=True)
            assert not isinstance(results[0], TimeoutError)
        assert_all_free()
        now.respond = lambda request: HttpResponse("well")
        assert (await ask("/plain")).status == 200

    test()


@run
async def test_readers_get_in_while_all_places_for_what_is_heavy_are_taken():
    now.respond = held(HttpResponse)
    now.go_on.clear()
    admission = wsgi_bridge.admission
    path = "/api/v1/heavy_computation"
    heavy = [
        asyncio.create_task(
            admission.enter(wsgi_bridge.Priority.HEAVY, 1e12, lambda: False)
        )
        for _ in range(admission.heavy_max)
    ]
    await asyncio.gather(*heavy)
    refused = await ask(path, headers=[(b"x-request-timeout", b"20ms")])
    assert refused.status == 503
    now.go_on.set()
    assert (await ask("/plain")).status == 200
    for _ in heavy:
        admission.leave(wsgi_bridge.Priority.HEAVY, 1.0, 1)
    assert_all_free()
