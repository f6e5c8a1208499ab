"""How long a request may take: what it asks for, and what becomes of it then."""

import asyncio
import time

import pytest
from django.http import HttpResponse
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.request import EdgeRequest, Priority
from resilient_site.resilience import deadlines
from tests.resilient_site.edge.clients import ask, becomes, get, run
from tests.resilient_site.edge.views import held, now

pytestmark = pytest.mark.urls("tests.resilient_site.edge.views")


def incoming(
    timeout: bytes | None, method: str = "GET", path: str = "/x"
) -> EdgeRequest:
    headers = [] if timeout is None else [(b"x-request-timeout", timeout)]
    scope = {"method": method, "path": path, "query_string": b"", "headers": headers}
    return EdgeRequest(scope)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (None, 10), (b"5", 5), (b"5s", 5), (b"0.25", 0.25), (b"250ms", 0.25),
        (b"1.5s", 1.5), (b"0", 0), (b"0ms", 0), (b"99999", 10), (b"10001ms", 10),
        # Nonsense is as if nothing had been said.
        (b"", 10), (b"-1", 10), (b"+1", 10), (b"1e3", 10), (b"5m", 10), (b"5 s", 10),
        (b"inf", 10), (b"nan", 10), (b".5", 10), (b"5.", 10), (b"1,5", 10),
        (b"\xb2", 10), (b"999999", 10), (b"1" * 60_000, 10), (b"5\n", 10),
        (b"0x5", 10), (b"5s5s", 10),
    ],
)  # fmt: skip
def test_a_client_may_ask_for_less(asked, granted):
    assert incoming(asked)._timeout_s() == granted


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/x", "read"), ("HEAD", "/x", "read"), ("POST", "/x", "write"),
        ("GET", "/api/v1/items/export", "heavy"), ("POST", "/items/import/", "heavy"),
    ],
)  # fmt: skip
def test_what_is_granted_depends_on_what_is_asked(settings, method, path, name):
    assert incoming(None, method, path)._timeout_s() == settings.DEADLINES_S[name]


@given(st.binary(max_size=20))
def test_whatever_is_asked_for_no_more_is_granted(asked):
    assert 0 <= incoming(asked)._timeout_s() <= 10


def test_who_asks_twice_has_asked_for_nothing():
    request = incoming(b"5")
    request.scope["headers"] *= 2
    assert EdgeRequest(request.scope)._timeout_s() == 10


@pytest.mark.parametrize("timeout", ["0", "0ms", "0.0s"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_has_no_time_is_not_served(timeout, method):
    @run
    async def test():
        answer = await get("/plain", method, **{"X-Request-Timeout": timeout})
        assert (answer.status, now.asked) == (503, [])
        assert answer.headers["retry-after"] == "1"

    test()


@run
async def test_whose_time_is_up_in_the_queue_is_answered_unserved():
    now.respond = held(HttpResponse)
    now.go_on.clear()
    inside = [asyncio.create_task(ask("/plain")) for _ in range(6)]
    await becomes(lambda: len(now.asked) == 6)
    began = time.monotonic()
    headers = [(b"x-request-timeout", b"50ms")]
    answer = await ask("/api/v1/nothing", headers=headers)
    assert (answer.status, answer.json()["code"]) == (503, "deadline_passed")
    assert time.monotonic() - began < 0.5
    now.go_on.set()
    assert {a.status for a in await asyncio.gather(*inside)} == {200}
    assert len(now.asked) == 6
    assert not any(wsgi_bridge.admission.running.values())


@run
async def test_a_view_knows_how_long_it_has():
    left: list[float | None] = []

    def respond(request):
        left.append(deadlines.remaining())
        assert not deadlines.is_expired()
        return HttpResponse()

    now.respond = respond
    await get("/plain", **{"X-Request-Timeout": "3s"})
    await get("/plain")
    await get("/plain", "POST")
    for found, most in zip(left, (3, 10, 30), strict=True):
        assert found is not None
        assert most - 1 < found <= most
    assert deadlines.remaining() is None


@pytest.mark.parametrize(("method", "is_over"), [("GET", True), ("POST", False)])
def test_nothing_is_read_for_a_client_who_has_gone(method, is_over):
    """And a write is carried through."""
    found: list[bool] = []
    gone = asyncio.Event()

    def respond(request):
        now.entered.set()
        assert now.go_on.wait(20)
        found.append(deadlines.is_expired())
        return HttpResponse()

    @run
    async def test():
        now.respond = respond
        now.go_on.clear()
        asking = asyncio.create_task(ask("/plain", method, gone=gone))
        await becomes(now.entered.is_set)
        gone.set()
        await asyncio.sleep(0.01)
        now.go_on.set()
        assert (await asking).status == 0
        assert found == [is_over]
        assert not any(wsgi_bridge.admission.running.values())

    test()


def test_a_block_has_no_more_time_than_what_is_around_it():
    assert deadlines.remaining() is None
    with deadlines.within(5):
        with deadlines.within(60):
            assert (deadlines.remaining() or 0) <= 5
        with deadlines.within(0):
            assert deadlines.is_expired()
            assert deadlines.remaining() == 0
        assert not deadlines.is_expired()
    assert not deadlines.is_expired()
    assert Priority.AUTHENTICATED_WRITE < Priority.ANONYMOUS_READ < Priority.HEAVY
