"""What is refused before it is a request, at the real server."""

import json
import socket

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


@pytest.fixture
def site(strict_site: Site) -> Site:
    return strict_site


def problem_of(received: bytes) -> dict[str, object]:
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head, received[:500]
    assert b"connection: close" in head.lower(), received[:500]
    return json.loads(body)


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
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED,
        POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED,
        POST + CHUNKED + CHUNKED + b"\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + SMUGGLED,
        POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + SMUGGLED,
        GET + b"X-Folded: a\r\n b\r\n\r\n",
        GET + b"X-Bare: a\nX-Next: b\r\n\r\n",
        GET + b"X-Bare: a\rX-Next: b\r\n\r\n",
        GET.replace(b"\r\n", b"\n") + b"\n",
        GET + b": nameless\r\n\r\n",
        GET + b"X\x80: a\r\n\r\n",
        GET + b"X: a\x00b\r\n\r\n",
        GET + HOST + b"\r\n",
        GET.replace(HOST, b"") + b"\r\n",
        GET.replace(b"localhost", b"local host") + b"\r\n",
        GET.replace(b"localhost", b"localhost/x") + b"\r\n",
        GET.replace(b"localhost", b"user@localhost") + b"\r\n",
        GET.replace(b"localhost", b"local\xffhost") + b"\r\n",
        GET.replace(b"localhost", b"") + b"\r\n",
        GET.replace(PATH, b"http://evil.example/") + b"\r\n",
        GET.replace(PATH, b"ftp://localhost/") + b"\r\n",
        GET.replace(PATH, b"api/v1/items") + b"\r\n",
        GET.replace(PATH, b"*") + b"\r\n",
        GET.replace(PATH, b"/\xff") + b"\r\n",
        GET.replace(PATH, b"/?\xff") + b"\r\n",
        GET.replace(PATH, b"/\x00") + b"\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 64,
    ],
    ids=name_of,
)  # fmt: skip
def test_what_is_not_plainly_one_request_is_refused(site, data):
    received = site.raw(data)
    assert received.startswith(b"HTTP/1.1 400 "), received[:300]
    assert received.count(b"HTTP/1.1 ") == 1, received
    assert problem_of(received)["code"] == "invalid"


@pytest.mark.parametrize("line", [b"GET /", b"GET / HTTP/0.9", b"GET / HTTP/2.0"])
def test_another_version_is_refused(site, line):
    received = site.raw(line + b"\r\n" + HOST + b"\r\n")
    assert received.startswith(b"HTTP/1.1 505 "), received[:300]


@pytest.mark.parametrize(
    "head",
    [
        GET,
        GET.replace(b"1.1", b"1.0"),
        GET.replace(b"GET ", b"HEAD "),
        GET.replace(PATH, b"http://LOCALHOST" + PATH),
        GET + b"X-Empty:\r\n",
        GET + b"X-Text: caf\xc3\xa9 \xff\r\n",
        GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        GET + b"X: y\r\n" * 95,
        b"\r\n\r\n" + GET,
    ],
    ids=name_of,
)
def test_what_is_odd_and_plain_is_answered(site, head):
    received = site.raw(head + CLOSE + b"\r\n")
    assert received.startswith(b"HTTP/1.1 200 "), received[:300]


@pytest.mark.parametrize("kind", [b"CHUNKED", b"chunked"])
def test_chunks_have_no_length_and_no_second_request_in_them(site, kind):
    received = site.raw(POST + b"Transfer-Encoding: " + kind + b"\r\n\r\n" + SMUGGLED)
    assert received.startswith(b"HTTP/1.1 411 "), received[:300]
    # The body had come by then: the next request is one of its own, or none is.
    assert received.count(b"HTTP/1.1 ") <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        b"5;a=b\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nHost: evil.example\r\nAuthorization: Token x\r\n\r\n",
    ],
    ids=["extension", "trailer"],
)
def test_what_comes_with_chunks_counts_for_nothing(site, chunks):
    received = site.raw(POST + CHUNKED + CLOSE + b"\r\n" + chunks)
    assert received.startswith(b"HTTP/1.1 411 "), received[:300]


@pytest.mark.parametrize("size", [b"\xff", b"5\nhello", b"-1", b"5;a\nhello"])
def test_broken_chunks_end_the_connection(site, size):
    received = site.raw(POST + CHUNKED + b"\r\n" + size + b"\r\n" + SMUGGLED)
    assert received[9:12] in (b"400", b"411"), received[:300]
    assert received.count(b"HTTP/1.1 ") == 1


def test_an_old_version_ends_with_its_answer(site):
    old = GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n"
    received = site.raw(old + SECOND)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in received.lower()
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_header_that_wsgi_would_take_for_another_one_is_left_out(site):
    received = site.raw(GET + b"If_None_Match: *\r\n" + CLOSE + b"\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    received = site.raw(GET + b"If-None-Match: *\r\n" + CLOSE + b"\r\n")
    assert received.startswith(b"HTTP/1.1 304 ")


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: y\r\n" * 100,
        GET + b"X: " + b"y" * 65_536 + b"\r\n",
        GET + b"X" * 65_536 + b": y\r\n",
        GET.replace(PATH, PATH + b"?" + b"y" * 65_536),
    ],
    ids=["fields", "value", "name", "target"],
)
def test_a_head_that_is_too_large_is_refused(site, head):
    received = site.raw(head + b"\r\n")
    assert received.startswith(b"HTTP/1.1 431 "), received[:300]
    assert problem_of(received)["code"] == "head_too_large"


def test_a_head_without_an_end_is_refused_when_it_is_too_large(site):
    with socket.create_connection((site.host, site.port), 10) as peer:
        peer.sendall(GET + b"X: ")
        for _ in range(80):
            peer.sendall(b"y" * 1024)
        assert peer.recv(12) == b"HTTP/1.1 431"


def test_requests_in_a_row_are_answered_in_their_order(site):
    ids = [b"country.DE", b"country.FR", b"language.deu"]
    heads = [GET.replace(b"country.DE", one) + b"\r\n" for one in ids]
    received = site.raw(b"".join(heads) + SECOND)
    found = [received.find(b'"id":"' + one) for one in ids]
    assert found == sorted(found)
    assert found[0] > 0
    assert received.count(b"HTTP/1.1 200 ") == 4


def test_nonsense_behind_a_request_spoils_not_its_answer(site):
    received = site.raw(GET + b"\r\n" + b"nonsense\r\n\r\n")
    answer, _, rest = received.partition(b"HTTP/1.1 400 ")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Germany" in answer
    assert problem_of(rest)["code"] == "invalid"


def test_a_flood_of_requests_in_a_row_is_refused(site):
    received = site.raw((GET.replace(PATH, b"/items/") + b"\r\n") * 1000)
    assert b"HTTP/1.1 400 " in received
    assert received.count(b"HTTP/1.1 ") <= 102


def test_a_refusal_reaches_a_client_who_is_still_sending(site):
    length = 32 * 1024 * 1024
    with socket.create_connection((site.host, site.port), 10) as peer:
        peer.sendall(POST + b"Content-Length: %d\r\n\r\n" % length)
        for _ in range(length // 65_536):
            peer.sendall(b"x" * 65_536)
        received = b""
        while part := peer.recv(65_536):
            received += part
    assert received.startswith(b"HTTP/1.1 413 "), received[:300]
    assert b"connection: close" in received
