"""Keys of shared responses: which parameters and headers make a difference."""

from dataclasses import replace
from urllib.parse import quote_from_bytes

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.edge.cache.keys import Key, key_of, query_of
from resilient_site.edge.cache.store import response_store
from resilient_site.edge.policy import Shared
from resilient_site.edge.request import EdgeRequest, normalize
from tests.resilient_site.edge.clients import HOST, ask, get, run
from tests.resilient_site.edge.views import now, thing_response

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]
SHARED = Shared(("q", "tag"))


def canonical(query: bytes) -> str | None:
    return query_of(query, SHARED)


@run
async def test_irrelevant_parameters_cause_no_fetch():
    await get("/thing?q=a")
    for irrelevant in (
        *(f"utm_{n}={n}&{n}" for n in range(10)),
        "&".join(f"x{n}=1" for n in range(900)),
        "x=" + "y" * 60_000,
        "x=%FF%00%ff", "x=\xff", "%ff%fe=1", "&&&=&=x", ";;",
    ):  # fmt: skip
        assert (await get(f"/thing?{irrelevant}&q=a")).is_hit
    assert [seen["query"] for seen in now.asked] == ["q=a"]
    assert len(response_store.memory) == 1


@pytest.mark.parametrize("parameters", [("q", "tag"), ()])
@pytest.mark.parametrize("query", [b"q=a&tags=x", b"tags=%20", b"x"])
def test_unknown_parameter_leaves_a_strict_view_to_respond(query, parameters):
    assert query_of(query, Shared(parameters, is_strict=True)) is None
    assert query_of(query, Shared(parameters)) is not None


@pytest.mark.parametrize("query", [b"of.b=2&q=x&of.a=1", b"of.b=2&q=%78&of.a=1"])
def test_parameters_of_any_name_behind_a_prefix_count(query):
    shared = Shared(("q", "of.NAME"), is_strict=True)
    assert query_of(query, shared) == "of.a=1&of.b=2&q=x"
    assert query_of(query.replace(b"of.", b"on."), shared) is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"tag=2&q=b&tag=1", "q=b&tag=2&tag=1"),
        (b"tag=2&q=%62&tag=1", "q=b&tag=2&tag=1"),
        (b"tag=&q=%20", "q=+&tag="),
    ],
)
@pytest.mark.parametrize("is_strict", [False, True])
def test_known_parameters_are_sorted_by_name(query, expected, is_strict):
    assert query_of(query, replace(SHARED, is_strict=is_strict)) == expected


@run
async def test_order_of_names_and_encoding_make_no_difference():
    await get("/thing?q=a%20b&tag=1&tag=2")
    for same in ("tag=1&tag=2&q=a+b", "tag=1&q=%61%20b&tag=2", "%71=a+b&tag=1&tag=2"):
        assert (await get(f"/thing?{same}")).is_hit
    for other in ("tag=2&tag=1&q=a+b", "q=a+b&tag=1", "q=a+b", "q=a+b&q=&tag=1&tag=2"):
        assert not (await get(f"/thing?{other}")).is_hit


@pytest.mark.parametrize(
    ("target", "filter_target", "is_stored"),
    [
        # With the host, and together with the other header: 1024 bytes.
        ("/thing?q=" + "x" * 1013, "", True),
        ("/thing?q=" + "x" * 1014, "", False),
        ("/thing", "x" * 1024, True),
        ("/thing", "x" * 1025, False),
        ("/thing?" + "&".join(["q=1"] * 500), "", False),
        ("/thing/" + "x" * 505, "", True),
        ("/thing/" + "x" * 506, "", False),
    ],
)
@run
async def test_response_with_a_long_key_is_not_stored(target, filter_target, is_stored):
    for _ in range(2):
        answer = await get(target, **{"HX-Target": filter_target})
        assert (answer.status, answer.cached != "") == (200, is_stored)
    assert len(now.asked) == (1 if is_stored else 2)
    assert len(response_store.memory) == int(is_stored)


@run
async def test_only_stated_headers_make_a_difference():
    varies = "Cookie, HX-Request, HX-Target"
    now.respond = lambda request: thing_response("x", Vary=varies)
    await get()
    for name in (
        "Accept",
        "Accept-Language",
        "User-Agent",
        "X-Forwarded-Host",
        "Range",
    ):
        assert (await get(**{name: "other"})).is_hit
    assert not (await get(**{"HX-Target": "results"})).is_hit
    assert now.asked[-1]["target"] == "results"
    assert (await get(**{"HX-Target": "results"})).is_hit


@pytest.mark.parametrize(("name", "seen_as"), [("hx_target", "target"), ("range",) * 2])
@pytest.mark.parametrize("path", ["/thing", "/plain"])
@run
async def test_header_that_is_not_in_the_key_does_not_reach_a_shared_view(
    path, name, seen_as
):
    """WSGI takes `HX_Target` for `HX-Target`: the response would be poisoned."""

    await ask(path, headers=[(name.encode(), b"poison")])
    is_passed_on = (path, name) == ("/plain", "range")
    assert now.asked[-1][seen_as] == ("poison" if is_passed_on else None)
    assert (await get(path)).is_hit == (path == "/thing")


@run
async def test_each_host_has_its_own_responses():
    await get()
    other = await ask("/thing", headers=[(b"host", b"127.0.0.1")])
    assert not other.is_hit


@run
async def test_odd_path_gets_no_cached_response_of_another():
    await get()
    for target in ("//thing", "/thing/", "/./thing", "/thing%00", "/thing%2f", "/%ff"):
        answer = await get(target)
        assert answer.status in (200, 301, 400, 404)
        assert not answer.is_hit


@given(st.binary(max_size=200))
def test_canonical_query_has_the_values_that_django_reads(query):
    text = canonical(query)
    assert text is not None
    assert canonical(text.encode()) == text
    theirs, ours = QueryDict(quote_from_bytes(query, safe=_ASCII)), QueryDict(text)
    for name in SHARED.parameters:
        assert ours.getlist(name) == theirs.getlist(name)


_ASCII = bytes(range(128))


_headers = st.lists(
    st.tuples(
        st.sampled_from([b"cookie", b"accept", b"x_y", b"hx-target", b"if-none-match"]),
        st.binary(max_size=20),
    )
)


@given(_headers, st.binary(max_size=50))
def test_normalized_request_is_unambiguous(headers, query):
    scope = {
        "method": "GET", "scheme": "http", "path": "/thing", "query_string": query,
        "headers": [HOST, *headers],
    }  # fmt: skip
    normalize(scope)
    request = EdgeRequest(scope)
    assert scope["query_string"].isascii()
    assert not [name for name in request.headers if b"_" in name]
    assert len([n for n, _ in scope["headers"] if n == b"cookie"]) <= 1
    assert isinstance(key_of(request), Key | None)
    assert isinstance(request.credentials, tuple)
