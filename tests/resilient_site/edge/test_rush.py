"""Who is refused while his request is read: nobody who might be answered."""

import math

import pytest

from resilient_site.edge import fast_path, load_shedding, wsgi_bridge
from resilient_site.edge.admission import NEXT, STRANGERS_PER_THREAD
from resilient_site.edge.cache import coalescing, stores
from resilient_site.edge.request import Incoming, Kind
from tests.resilient_site.edge.clients import HOST, becomes, get, run

pytestmark = pytest.mark.urls("tests.resilient_site.edge.views")


def asked(path: str = "/thing", method: str = "GET", **headers: str) -> Incoming:
    told = [
        (name.encode().replace(b"_", b"-"), v.encode()) for name, v in headers.items()
    ]
    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"",
        "scheme": "http", "headers": [HOST, *told],
    }  # fmt: skip
    return Incoming(scope)


def is_refused(request: Incoming) -> bool:
    key = coalescing.key_of_shared(request)
    return key is not None and load_shedding.is_refused(request, key)


async def begin_rush(places: int = 0) -> None:
    """Let there be too much to do, with so many places for those who still come."""
    wsgi_bridge.admission._standing_until = math.inf
    wsgi_bridge.admission.limit.value = places - NEXT
    await becomes(lambda: not stores.last_known.may_have("anything"))


@run
async def test_a_stranger_is_refused_what_nobody_has_asked_for(last_known):
    await begin_rush()
    fields = dict([HOST, (b"x-request-id", b"mine")])
    answer = fast_path.answer(b"GET", b"/thing", "http", fields, [])
    assert answer is not None
    head, body = answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    lines = head.split(b"\r\n")
    assert {b"retry-after: %d" % n for n in (1, 2, 3)} & {*lines}
    assert b"x-request-id: mine" in lines
    assert b"content-length: %d" % len(body) in lines
    assert b"mine" in body
    assert wsgi_bridge.admission.refused[Kind.READ] == 1


@run
async def test_nobody_is_refused_when_there_is_no_rush(last_known):
    await begin_rush()
    wsgi_bridge.admission._standing_until = 0
    assert not is_refused(asked())


@pytest.mark.parametrize(
    "request_",
    [
        asked(method="POST"),
        asked(authorization="Token it"),
        asked(cookie="sessionid=it"),
        asked(cache_control="only-if-cached"),
        asked("/livez"),
        asked("/plain"),
    ],
)
def test_others_go_the_whole_way(last_known, request_):
    @run
    async def test() -> None:
        await begin_rush()
        assert not is_refused(request_)

    test()


@run
async def test_what_is_known_is_not_refused(last_known):
    await get()
    await begin_rush()
    assert not is_refused(asked())
    stores.copies.__init__(stores.copies.max_bytes)  # it is on the disk alone
    assert not is_refused(asked())
    assert is_refused(asked("/thing/another"))


@run
async def test_as_many_are_let_through_as_there_are_places(last_known):
    await begin_rush(places=2)
    first, second, third = (asked(f"/thing/{n}") for n in range(3))
    assert not is_refused(first)
    assert not is_refused(first)  # he shares the flight of the other one
    assert not is_refused(second)
    assert is_refused(third)
    await get("/thing/0")
    assert len(coalescing.coming) == 1
    assert not is_refused(third)


@run
async def test_before_it_is_known_to_be_a_rush_no_more_may_wait_than_get_in(last_known):
    await becomes(lambda: not stores.last_known.may_have("anything"))
    most = STRANGERS_PER_THREAD * wsgi_bridge.admission.threads
    for n in range(most):
        assert not is_refused(asked(f"/thing/{n}"))
    assert is_refused(asked("/thing/more"))
    await get("/thing/0")
    assert not is_refused(asked("/thing/more"))


@run
async def test_without_admission_nobody_is_refused(last_known, monkeypatch):
    monkeypatch.setattr(wsgi_bridge.admission, "is_on", False)
    await becomes(lambda: not stores.last_known.may_have("anything"))
    for n in range(STRANGERS_PER_THREAD * wsgi_bridge.admission.threads + 1):
        assert not is_refused(asked(f"/thing/{n}"))


@run
async def test_where_nothing_is_shared_nobody_is_kept_out_by_who_came_before(
    last_known, settings
):
    settings.READ_CACHE = False
    await begin_rush(places=3)
    for n in range(20):
        assert not is_refused(asked(f"/thing/{n}"))
        assert (await get(f"/thing/{n}")).status == 200
    assert not coalescing.coming
