"""Streams and waits, which hold no thread, on Uvicorn as the workers run it."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.admission import Admission, Quota
from resilient_site.edge.request import SCOPE_KEY, is_after_wait
from resilient_site.edge.streaming import Stream, Wait, in_flight_responses
from tests.resilient_site.edge.clients import becomes
from tests.resilient_site.edge.server import GET, answer, served

POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
pytestmark = [pytest.mark.urls(__name__), pytest.mark.once]

# What the views do, and what they have seen; new for each test.
now = SimpleNamespace()


@pytest.fixture(autouse=True)
def state():
    vars(now).clear()
    done = asyncio.Event()
    vars(now).update(
        open=0, asked=[], answers=[], first_status=202,
        done=done, until=done.wait, wait_s=90, left=0,
    )  # fmt: skip
    yield now
    assert not in_flight_responses.tasks


async def pieces():
    now.open += 1
    try:
        yield b"first\n"
        await now.done.wait()
        yield b"last\n"
    finally:
        now.open -= 1


async def flood():
    now.open += 1
    try:
        while True:
            yield b"x" * 100_000
    finally:
        now.open -= 1


def stream(request):
    response = HttpResponse("as it stands", headers={"X-Kept": "1"})
    response.continuation = Stream(flood if "flood" in request.GET else pieces)
    return response


@csrf_exempt
def wait(request):
    now.asked.append((request.method, request.get_full_path(), request.body))
    response = HttpResponse(
        "first", status=now.first_status, headers={"Location": "/x", "X-First": "1"}
    )
    then = "/after%2Fwait?a=1&b=%C3%A9"
    response.continuation = Wait(now.until, now.wait_s, then, leave)
    return response


def leave():
    now.left += 1


def after(request):
    names = ("Authorization", "Cookie", "Idempotency-Key", "Content-Length")
    now.headers = {name: request.headers.get(name) for name in names}
    now.is_after_wait = is_after_wait(request)  # before what the tests wait for
    now.asked.append((request.method, request.get_full_path(), request.body))
    if now.answers:
        return now.answers.pop()
    response = HttpResponse(f"after {request.GET['b']}")
    response.continuation = Wait(now.until, now.wait_s, "/wait")  # is not granted
    return response


urlpatterns = [
    path("stream", stream),
    path("wait", wait),
    path("after/wait", after),
    path("page", lambda request: HttpResponse("page")),
    path("api/page", lambda request: HttpResponse("page")),
]
handler404 = "resilient_site.errors.respond_to_exception"


@pytest.fixture(autouse=True)
def admit_all(monkeypatch):
    """So many come at once that some would be rejected."""
    monkeypatch.setattr(wsgi_bridge.admission, "is_on", False)


# --- streams


@served
async def test_stream_replaces_the_content(site):
    reader, writer = await site.send(GET % b"/stream")
    start = await reader.readuntil(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200")
    assert b"x-kept: 1" in start
    assert b"content-length" not in start.lower()
    assert await reader.readuntil(b"first\n\r\n") == b"6\r\nfirst\n\r\n"
    now.done.set()
    assert await reader.readexactly(15) == b"5\r\nlast\n\r\n0\r\n\r\n"
    await becomes(lambda: now.open == 0)
    # Ended in good order: the connection serves on.
    writer.write(GET % b"/page")
    assert (await answer(reader))[1] == b"page"


@served
async def test_stream_ends_with_its_client(site):
    reader, writer = await site.send(GET % b"/stream")
    await reader.readuntil(b"first\n")
    writer.close()
    await becomes(lambda: now.open == 0)


@served
async def test_head_starts_no_stream(site):
    request = GET.replace(b"GET", b"HEAD") % b"/stream"
    reader, _ = await site.send(request + GET % b"/page")
    assert b"x-kept: 1" in await reader.readuntil(b"\r\n\r\n")
    assert (await answer(reader))[1] == b"page"
    assert now.open == 0


@served
async def test_stream_that_is_not_read_is_ended(site, monkeypatch):
    monkeypatch.setattr(wsgi_bridge, "IDLE_S", 0.3)
    reader, _ = await site.send(GET % b"/stream?flood")
    await becomes(lambda: now.open == 1)
    await becomes(lambda: now.open == 0)


@served
async def test_stream_ends_completely_after_its_longest_time(site, monkeypatch):
    monkeypatch.setattr(wsgi_bridge, "STREAM_MAX_S", 0.1)
    reader, _ = await site.send(GET % b"/stream")
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readuntil(b"0\r\n\r\n") == b"6\r\nfirst\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("quota", [Quota(9, 1), Quota(1, 9)])
@served
async def test_content_is_sent_where_too_many_responses_are_in_flight(
    site, monkeypatch, quota
):
    monkeypatch.setattr(wsgi_bridge.admission, "streams", quota)
    reader, _ = await site.send(GET % b"/stream")
    await reader.readuntil(b"first\n")
    start, content = await site.get(b"/stream")
    assert content == b"as it stands"
    assert b"connection: close" in start
    assert (await site.get(b"/wait"))[1] == b"first"
    assert now.left == 1
    other, _ = await site.send(GET % b"/stream", "127.0.0.2")
    is_of_each = quota.per_client == 1
    await other.readuntil(b"first\n" if is_of_each else b"as it stands")


@pytest.mark.parametrize(
    ("quota", "status", "status_of_others"),
    [(Quota(9, 2), b"429", b"200"), (Quota(2, 9), b"503", b"503")],
)
@served
async def test_probes_respond_while_a_client_has_all_that_it_may(
    site, monkeypatch, quota, status, status_of_others
):
    monkeypatch.setattr(wsgi_bridge.admission, "requests", quota)
    # A stream, and a body that does not come.
    await site.send(GET % b"/stream")
    await site.send(POST.removesuffix(b"body") % b"/wait")
    await becomes(lambda: quota.used == 2)
    start, content = await site.get(b"/api/page")
    assert start.split()[1] == status
    assert b"connection: close" in start
    assert b"retry-after: 1" in start
    assert (await site.get(b"/livez"))[0].split()[1] == b"200"
    start, _ = await site.get(b"/api/page", source="127.0.0.2")
    assert start.split()[1] == status_of_others
    for peer in site.peers:
        peer.close()
    await becomes(lambda: not quota.used and not quota.used_by)


def test_quotas_are_well_below_the_connections():
    for connections in (256, 1_024, 10**6):
        admission = Admission(8, settings.ADMISSION_PATIENCE_S, connections=connections)
        assert admission.requests.total <= connections / 2
        assert admission.streams.total <= admission.requests.total / 2
        assert admission.requests.per_client <= admission.requests.total / 4
        assert admission.streams.per_client < admission.requests.per_client


def test_content_is_sent_under_wsgi(client):
    assert client.get("/stream").content == b"as it stands"
    response = client.post("/wait", b"body", "text/plain")
    assert (response.status_code, response.content) == (202, b"first")


# --- waits

AFTER = "/after/wait?a=1&b=%C3%A9"


@served
async def test_wait_ends_with_an_internal_get_by_the_same_client(site):
    sent = b"Authorization: Token t\r\nIdempotency-Key: k\r\nCookie: a=b\r\n\r\n"
    reader, _ = await site.send((POST % b"/wait").replace(b"\r\n\r\n", b"\r\n" + sent))
    await becomes(lambda: len(in_flight_responses.tasks) == 1)
    assert now.asked == [("POST", "/wait", b"body")]
    now.done.set()
    start, content = await answer(reader)
    assert (start[:12], content.decode()) == (b"HTTP/1.1 200", "after é")
    assert now.asked[1:] == [("GET", AFTER, b"")]
    assert now.is_after_wait
    assert now.left == 0
    assert now.headers == {
        "Authorization": "Token t", "Cookie": "a=b",
        "Idempotency-Key": None, "Content-Length": None,
    }  # fmt: skip


@served
async def test_wait_that_fails_ends_and_is_reported(site, caplog):
    async def fail():
        raise ValueError("no end in sight")

    now.until = fail
    assert (await site.get(b"/wait"))[1].startswith(b"after")
    assert "no end in sight" in caplog.text


@served
async def test_wait_of_a_client_that_left_ends_without_a_get(site):
    _, writer = await site.send(POST % b"/wait")
    await becomes(lambda: len(in_flight_responses.tasks) == 1)
    writer.close()
    await becomes(lambda: not in_flight_responses.tasks)
    await becomes(lambda: now.left == 1)
    assert (await site.get(b"/page"))[1] == b"page"
    assert len(now.asked) == 1


@pytest.mark.parametrize("status", [401, 404, 429, 503])
@served
async def test_first_response_is_sent_if_the_get_fails(site, status):
    now.done.set()
    now.answers = [HttpResponse("no", status=status)]
    start, content = await site.get(b"/wait", POST)
    assert (start[:12], content) == (b"HTTP/1.1 202", b"first")


@served
async def test_stream_may_follow_a_wait(site):
    now.done.set()
    now.answers = [stream(SimpleNamespace(GET={}))]
    reader, _ = await site.send(GET % b"/wait")
    await reader.readuntil(b"first\n\r\n5\r\nlast\n\r\n0\r\n\r\n")


@served
async def test_no_header_makes_a_request_the_end_of_a_wait(site):
    forged = b"".join(
        b"%s: 1\r\n" % name
        for name in (SCOPE_KEY.encode(), b"asgi.scope", b"is_after_wait")
    )
    reader, _ = await site.send((GET % AFTER.encode())[:-2] + forged + b"\r\n")
    await becomes(lambda: bool(now.asked))
    assert not now.is_after_wait


# --- the end of the process


@served
async def test_stop_ends_streams_and_waits_completely(site):
    site.server.config.timeout_graceful_shutdown = 60
    stream, _ = await site.send(GET % b"/stream")
    await stream.readuntil(b"first\n\r\n")
    waiting, _ = await site.send(GET % b"/wait")
    await becomes(lambda: len(in_flight_responses.tasks) == 2)
    stop = asyncio.create_task(site.stop())
    assert await stream.read() == b"0\r\n\r\n"
    assert (await answer(waiting))[1].startswith(b"after")
    assert await waiting.read() == b""
    await stop
    with suppress(ConnectionError):
        await site.get(b"/page")
        pytest.fail("The site has not stopped.")
