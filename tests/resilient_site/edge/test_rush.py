"""Who is refused while his request is read: nobody who might be answered."""

import math

import pytest

from resilient_site.edge import origin, public, rush, stores
from resilient_site.edge.incoming import Incoming, Kind
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


async def begin_rush(places: int = 0) -> None:
    """Let there be too much to do, with so many places for those who still come."""
    origin.admission._standing_until = math.inf
    origin.admission.limit.value = places / 2
    await becomes(lambda: not stores.last_known.may_have("anything"))


@run
async def test_a_stranger_is_refused_what_nobody_has_asked_for(last_known):
    await begin_rush()
    refused = rush.refusal_of(asked(x_request_id="mine"))
    assert refused is not None
    headers = dict(refused[0])
    assert headers[b"retry-after"] in (b"1", b"2", b"3")
    assert headers[b"x-request-id"] == b"mine"
    assert headers[b"content-length"] == b"%d" % len(refused[1])
    assert origin.admission.refused[Kind.READ] == 1


@run
async def test_nobody_is_refused_when_there_is_no_rush(last_known):
    await begin_rush()
    origin.admission._standing_until = 0
    assert rush.refusal_of(asked()) is None


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
        assert rush.refusal_of(request_) is None

    test()


@run
async def test_what_is_known_is_not_refused(last_known):
    await get()
    await begin_rush()
    assert rush.refusal_of(asked()) is None
    stores.copies.__init__(stores.copies.max_bytes)  # it is on the disk alone
    assert rush.refusal_of(asked()) is None
    assert rush.refusal_of(asked("/thing/another")) is not None


@run
async def test_as_many_are_let_through_as_there_are_places(last_known):
    await begin_rush(places=2)
    first, second, third = (asked(f"/thing/{n}") for n in range(3))
    assert rush.refusal_of(first) is None
    assert rush.refusal_of(first) is None  # he shares the flight of the other one
    assert rush.refusal_of(second) is None
    assert rush.refusal_of(third) is not None
    await get("/thing/0")
    assert len(public.coming) == 1
    assert rush.refusal_of(third) is None


@run
async def test_where_nothing_is_shared_nobody_is_kept_out_by_who_came_before(
    last_known, settings
):
    settings.READ_CACHE = False
    await begin_rush(places=2)
    for n in range(20):
        assert rush.refusal_of(asked(f"/thing/{n}")) is None
        assert (await get(f"/thing/{n}")).status == 200
    assert not public.coming
