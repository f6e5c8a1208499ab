"""Every request gives back its thread, whatever becomes of it or of its client."""

import asyncio
from threading import current_thread

import pytest
from django.conf import settings
from django.core.cache import caches
from django.http import HttpResponse, StreamingHttpResponse

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.admission import Admission
from resilient_site.edge.cache import coalescing
from tests.resilient_site.edge.clients import Answer, ask, becomes, run
from tests.resilient_site.edge.server import GET, served
from tests.resilient_site.edge.views import held, now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]


async def take_all_threads() -> list[asyncio.Task[Answer]]:
    """Occupy all threads for light requests until the test sets `now.go_on`."""
    now.respond = held(HttpResponse)
    now.go_on.clear()
    admission = wsgi_bridge.admission
    threads = admission.threads - admission.heavy_max
    inside = [asyncio.create_task(ask("/plain")) for _ in range(threads)]
    await becomes(lambda: len(now.asked) == threads)
    return inside


def assert_all_free() -> None:
    assert not any(wsgi_bridge.admission.running.values())
    assert not any(wsgi_bridge.admission.queued.values())


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
@pytest.mark.parametrize("target", ["/plain", "/thing"])
@run
async def test_client_that_leaves_the_queue_is_not_served(target, how):
    inside = await take_all_threads()
    gone = asyncio.Event()
    waiting = asyncio.create_task(ask(target, gone=gone))
    await becomes(lambda: sum(wsgi_bridge.admission.queued.values()) == 1)
    gone.set() if how == "leaves" else waiting.cancel()
    await asyncio.wait([waiting])
    fetches = coalescing.in_flight.values()
    await becomes(lambda: all(fetch.is_given_up for fetch in fetches))
    now.go_on.set()
    await asyncio.gather(*inside)
    await becomes(lambda: not any(wsgi_bridge.admission.running.values()))
    assert len(now.asked) == len(inside)
    assert_all_free()


@run
async def test_failures_do_not_lower_the_concurrency_limit(monkeypatch):
    """They may have waited for a lock in the database, and for as long as they may."""
    recorded: list[object] = []
    limit = wsgi_bridge.admission.limit
    monkeypatch.setattr(limit, "record", lambda *sample: recorded.append(sample))
    for status in (503, 500, 200):
        now.respond = lambda request, status=status: HttpResponse(status=status)
        assert (await ask("/plain")).status == status
    assert len(recorded) == 1


def fail(request):
    raise ValueError("A fault of ours.")


def fail_in_the_middle(request):
    def pieces():
        yield b"x"
        raise ValueError("A fault of ours.")

    return StreamingHttpResponse(pieces())


@pytest.mark.parametrize("respond", [fail, fail_in_the_middle])
@pytest.mark.parametrize("target", ["/plain", "/thing", "/jobs/new/"])
@run
async def test_view_that_fails_gives_back_its_thread(respond, target):
    now.respond = respond
    for _ in range(wsgi_bridge.admission.threads + 1):
        results = await asyncio.gather(ask(target), return_exceptions=True)
        assert not isinstance(results[0], TimeoutError)
    assert_all_free()
    now.respond = lambda request: HttpResponse("well")
    assert (await ask("/plain")).status == 200


@run
async def test_thread_keeps_its_caches():
    """Making one anew, with its client of Redis, takes as long as some queries."""
    caches_of: dict[object, set[object]] = {}

    def respond(request):
        caches_of.setdefault(current_thread(), set()).add(caches["rates"])
        return HttpResponse()

    now.respond = respond
    for _ in range(wsgi_bridge.admission.threads + 1):
        await ask("/plain")
    assert all(len(found) == 1 for found in caches_of.values())


@served
async def test_responses_that_are_not_read_leave_threads_for_others(site, monkeypatch):
    patience_s = settings.ADMISSION_PATIENCE_S | {"heavy": 0.1}
    admission = Admission(8, patience_s)
    monkeypatch.setattr(wsgi_bridge, "admission", admission)
    unread = [await site.send(GET % b"/export") for _ in range(admission.threads)]
    starts = [await reader.readexactly(12) for reader, _ in unread]
    assert starts.count(b"HTTP/1.1 200") == admission.heavy_max
    assert starts.count(b"HTTP/1.1 503") == admission.threads - admission.heavy_max
    assert (await site.get(b"/plain"))[0].startswith(b"HTTP/1.1 200")
    for _, writer in unread:
        writer.close()
    await becomes(lambda: not any(admission.running.values()))
    assert_all_free()
