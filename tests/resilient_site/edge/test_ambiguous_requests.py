"""Requests that two servers might read in two ways, at the stock server."""

from collections.abc import Iterator

import pytest

from tests.running import Site

pytestmark = pytest.mark.once

PATH = b"/api/v1/items/country.DE"
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
GET = b"GET " + PATH + b" HTTP/1.1\r\n" + HOST
POST = b"POST /api/v1/items/ HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SECOND = GET + CLOSE + b"\r\n"
SMUGGLED = b"0\r\n\r\n" + SECOND


def name_of(data: bytes) -> str:
    """Return what is special about a request."""
    for usual in (SMUGGLED, POST, GET):
        data = data.replace(usual, b"")
    return ascii(data[:70])[2:-1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), RATE_LIMITS="off")
    try:
        yield site.start_web()
    finally:
        site.stop()


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n" + SMUGGLED,
        POST + CHUNKED + b"Content-Length: 5\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 5, 5\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: +5\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 0x5\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length:\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length : 5\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding : chunked\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED,
        POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED,
        POST + CHUNKED + CHUNKED + b"\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + SMUGGLED,
        POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + SMUGGLED,
    ],
    ids=name_of,
)  # fmt: skip
def test_ambiguous_framing_never_yields_a_second_request(site, data):
    received = site.raw(data)
    assert received[:10] == b"HTTP/1.1 4", received[:300]
    assert received.count(b"HTTP/1.1 ") == 1, received


def test_header_with_underscore_is_dropped(site):
    received = site.raw(GET + b"If_None_Match: *\r\n" + CLOSE + b"\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    received = site.raw(GET + b"If-None-Match: *\r\n" + CLOSE + b"\r\n")
    assert received.startswith(b"HTTP/1.1 304 ")
