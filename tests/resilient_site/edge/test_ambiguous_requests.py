"""Requests that two servers might read in two ways, at the stock server."""

import pytest

from tests.resilient_site.edge.server import served

pytestmark = [pytest.mark.urls("tests.resilient_site.edge.views"), pytest.mark.once]

GET = b"GET /plain HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /plain HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"0\r\n\r\n" + GET + b"Connection: close\r\n\r\n"


def name_of(data: bytes) -> str:
    """Return what is special about a request."""
    for usual in (SMUGGLED, POST, GET):
        data = data.replace(usual, b"")
    return ascii(data[:70])[2:-1]


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
@served
async def test_ambiguous_framing_never_yields_a_second_request(site, data):
    reader, _ = await site.send(data)
    received = await reader.read()
    assert received[:10] == b"HTTP/1.1 4", received[:300]
    assert received.count(b"HTTP/1.1 ") == 1, received
