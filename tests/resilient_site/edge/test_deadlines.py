"""Deadlines of requests: what a client may ask for, and what happens at the end."""

import asyncio
import time

import pytest
from django.http import HttpResponse

from resilient_site.edge import wsgi_bridge
from resilient_site.edge.access_log import REJECTED, requests
from resilient_site.edge.request import EdgeRequest
from resilient_site.resilience import deadlines
from tests.resilient_site.edge.clients import ask, becomes, get, run
from tests.resilient_site.edge.views import now

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]
TIMEOUT = b"x-request-timeout"


def timeout_s(method: str = "GET", path: str = "/x", *asked: bytes) -> float:
    headers = [(TIMEOUT, value) for value in asked]
    scope = {"method": method, "path": path, "query_string": b"", "headers": headers}
    return EdgeRequest(scope).timeout_s


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (b"5", 5), (b"5s", 5), (b"0.25", 0.25), (b"250ms", 0.25),
        (b"1.5s", 1.5), (b"0", 0), (b"0ms", 0), (b"99999", 10), (b"10001ms", 10),
        # A malformed value is ignored.
        (b"", 10), (b"-1", 10), (b"+1", 10), (b"1e3", 10), (b"5m", 10), (b"5 s", 10),
        (b"inf", 10), (b"nan", 10), (b".5", 10), (b"5.", 10), (b"1,5", 10),
        (b"\xb2", 10), (b"999999", 10), (b"1" * 60_000, 10), (b"5\n", 10),
        (b"0x5", 10), (b"5s5s", 10),
    ],
)  # fmt: skip
def test_client_may_shorten_its_timeout(asked, granted):
    assert timeout_s("GET", "/x", asked) == granted


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/x", "read"), ("HEAD", "/x", "read"), ("POST", "/x", "write"),
        ("GET", "/api/v1/items/-/export", "heavy"),
        ("POST", "/items/-/import/", "heavy"),
    ],
)  # fmt: skip
def test_timeout_depends_on_method_and_policy(settings, method, path, name):
    assert timeout_s(method, path) == settings.DEADLINES_S[name]


@pytest.mark.parametrize("method", ["GET", "POST"])
@run
async def test_request_without_time_is_rejected_and_counted(method):
    counted = "/api/v1/mine", method, 503, REJECTED
    before = requests[counted]
    answer = await ask("/api/v1/mine", method, [(TIMEOUT, b"0ms")])
    assert (answer.status, answer.json()["code"]) == (503, "deadline_passed")
    assert (answer.headers["retry-after"], now.asked) == ("1", [])
    assert requests[counted] == before + 1


@run
async def test_view_sees_its_deadline():
    left: list[float] = []

    def respond(request):
        left.append(deadlines.current.get().at - time.monotonic())
        assert not deadlines.is_expired()
        return HttpResponse()

    now.respond = respond
    await get("/plain", **{"X-Request-Timeout": "9s"})
    await get("/plain")
    await get("/plain", "POST")
    for found, most in zip(left, (9, 10, 30), strict=True):
        assert 0 < found <= most
    assert deadlines.current.get() is None


@pytest.mark.parametrize(("method", "is_expired"), [("GET", True), ("POST", False)])
@run
async def test_client_that_leaves_ends_a_read_and_no_write(method, is_expired):
    found: list[bool] = []
    gone = asyncio.Event()

    def respond(request):
        now.entered.set()
        assert now.go_on.wait(90)
        found.append(deadlines.is_expired())
        return HttpResponse()

    now.respond = respond
    now.go_on.clear()
    asking = asyncio.create_task(ask("/plain", method, gone=gone))
    await becomes(now.entered.is_set)
    gone.set()
    for _ in range(50):  # more steps than it takes the edge to see that
        await asyncio.sleep(0)
    now.go_on.set()
    assert (await asking).status == 0
    assert found == [is_expired]
    assert not any(wsgi_bridge.admission.running.values())
