"""The address of a client comes from the network and never from its headers."""

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from resilient_site.ratelimit.middleware import client_address
from tests.running import Site

pytestmark = pytest.mark.once

QUOTA = 1_000_000


def address_of(remote: str) -> str | None:
    return client_address(RequestFactory().get("/", REMOTE_ADDR=remote))


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", None),
        ("unknown", None),
        ("192.0.2.1:80", None),
        ("192.0.2.300", None),
        ("1" * 10_000, None),
    ],
)
def test_address_is_normalized(remote, expected):
    assert address_of(remote) == expected


def test_request_may_have_no_address():
    request = RequestFactory().get("/")
    del request.META["REMOTE_ADDR"]
    assert client_address(request) is None


@given(st.ip_addresses())
def test_any_address_is_normalized_to_an_address(address):
    found = ip_address(address_of(str(address)))
    assert isinstance(found, IPv4Address) or int(found) % 2**64 == 0


# --- with the server that runs the site


def served(data_dir: Any, **env: str) -> Iterator[Site]:
    site = Site(data_dir, RATE_LIMITS=f"anonymous-read={QUOTA}/d", **env)
    try:
        yield site.start_web()
    finally:
        site.stop()


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> Iterator[Site]:
    yield from served(tmp_path_factory.mktemp("direct"))


@pytest.fixture(scope="module")
def behind_proxies(tmp_path_factory) -> Iterator[Site]:
    trusted = "127.0.0.1, 10.0.0.0/8, 2001:db8:f::/48"
    yield from served(tmp_path_factory.mktemp("behind"), FORWARDED_ALLOW_IPS=trusted)


def spent(site: Site, *forwarded: str, **headers: str) -> int:
    """Send one request; return how many this client has sent so far."""
    lines = [f"X-Forwarded-For: {value}" for value in forwarded]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(["GET /api/v1/nothing HTTP/1.1", "Host: localhost", *lines])
    answer = site.raw(f"{head}\r\nConnection: close\r\n\r\n".encode("latin-1"))
    _, _, found = answer.partition(b'ratelimit: "anonymous-read";r=')
    return QUOTA - int(found.partition(b";")[0])


FORGED = [
    ["203.0.113.1"],
    ["203.0.113.2, 127.0.0.1"],
    ["203.0.113.3", "203.0.113.4"],
    ["127.0.0.1"],
    ["2001:db8::1"],
    ["[2001:db8::1]:443"],
    ["unknown, , \xff\x00x".replace("\x00", "")],
    ["," * 5_000],
]


def test_without_a_proxy_forwarded_headers_are_ignored(direct):
    before = spent(direct)
    for n, forwarded in enumerate(FORGED, 1):
        assert spent(direct, *forwarded) == before + n, forwarded
    other = {"Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    assert spent(direct, **other) == before + len(FORGED) + 1


@pytest.mark.parametrize(
    "forwarded",
    [
        ["192.0.2.9"],
        ["192.0.2.9:4711"],
        ["203.0.113.1, 192.0.2.9"],
        ["203.0.113.1", "192.0.2.9"],
        ["unknown, 192.0.2.9"],
        ["x" * 5_000 + ", 192.0.2.9"],
        ["203.0.113.1, 192.0.2.9, 10.1.2.3"],
        ["203.0.113.1, 192.0.2.9", "10.1.2.3,[2001:db8:f::1]:80"],
    ],
)
def test_behind_proxies_the_last_untrusted_address_counts(behind_proxies, forwarded):
    before = spent(behind_proxies, "192.0.2.9")
    assert spent(behind_proxies, *forwarded) == before + 1
    assert spent(behind_proxies, "192.0.2.9") == before + 2


def test_ipv6_network_behind_a_proxy_is_one_client(behind_proxies):
    first = spent(behind_proxies, "2001:db8:1:1::1")
    assert spent(behind_proxies, "[2001:db8:1:1::2]:443") == first + 1
    assert spent(behind_proxies, "2001:db8:1:2::1") == 1


def test_malformed_forwarded_address_fails_nothing(behind_proxies):
    for value in ("unknown", "_hidden", "", ",", "[", "[::1", "1.2.3.4:x", "\xff"):
        assert spent(behind_proxies, value) >= 1, value
