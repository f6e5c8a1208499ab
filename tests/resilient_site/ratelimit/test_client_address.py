"""The client's address is what the network says, and never what the client says."""

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from django.test import RequestFactory
from hypothesis import assume, given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from resilient_site.ratelimit.client_address import client_address
from tests.running import Site

QUOTA = 1_000_000


def address_of(remote: str) -> str | None:
    return client_address(RequestFactory().get("/", REMOTE_ADDR=remote))


@pytest.mark.parametrize(
    ("remote", "known_as"),
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
def test_an_address_is_one_client(remote, known_as):
    assert address_of(remote) == known_as


def test_a_request_may_have_none():
    request = RequestFactory().get("/")
    del request.META["REMOTE_ADDR"]
    assert client_address(request) is None


@given(st.ip_addresses())
def test_any_address_is_known_by_an_address(address):
    found = ip_address(address_of(str(address)))
    assert isinstance(found, IPv4Address) or int(found) % 2**64 == 0


@given(
    st.lists(st.binary(max_size=40), max_size=5),
    st.ip_addresses(),
    st.lists(st.sampled_from([b"10.1.2.3", b"127.0.0.1", b"[::1]:80"]), max_size=3),
)
def test_whatever_comes_before_what_the_proxies_add_is_not_read(forged, real, proxies):
    """Uvicorn's part of it: each line of `forged` is a header of the client's."""
    added = b", ".join([str(real).encode(), *proxies])
    lines = [*forged[:-1], b", ".join([*forged[-1:], added])]
    scope: Any = {
        "type": "http",
        "scheme": "http",
        "client": ("127.0.0.1", 4711),
        "headers": [(b"x-forwarded-for", line) for line in lines],
    }

    async def application(scope: Any, receive: Any, send: Any) -> None:
        pass

    server: Any = ProxyHeadersMiddleware(
        application, ["127.0.0.1", "::1", "10.0.0.0/8"]
    )
    assume(str(real) not in server.trusted_hosts)
    asyncio.run(server(scope, None, None))
    assert scope["client"][0] == str(real)


# --- with the server that runs the site


def served(data_dir: Any, **env: str) -> Iterator[Site]:
    site = Site(data_dir, RATE_LIMITS=f"anonymous-read={QUOTA}/d", **env)
    try:
        yield site.start()
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
    """Ask once; return how often this client has asked so far."""
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


@pytest.mark.once
def test_without_a_proxy_nothing_that_a_client_says_counts(direct):
    before = spent(direct)
    for n, forwarded in enumerate(FORGED, 1):
        assert spent(direct, *forwarded) == before + n, forwarded
    other = {"Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    assert spent(direct, **other) == before + len(FORGED) + 1


@pytest.mark.once
@pytest.mark.parametrize("forged", [False, True], ids=["honest", "forged"])
def test_a_thousand_forged_addresses_are_limited_as_none(
    direct, behind_proxies, forged
):
    """Through a proxy too, which adds the real address at the end."""
    for site, real in ((direct, []), (behind_proxies, ["198.51.100.7"])):
        before = spent(site, *real)
        for n in range(1_000):
            made_up = [f"203.0.{n // 256}.{n % 256}"] if forged else []
            count = (
                spent(site, ", ".join(made_up + real))
                if made_up + real
                else (spent(site))
            )
        assert count == before + 1_000


@pytest.mark.once
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
def test_behind_proxies_it_is_the_last_address_that_is_none(behind_proxies, forwarded):
    before = spent(behind_proxies, "192.0.2.9")
    assert spent(behind_proxies, *forwarded) == before + 1
    assert spent(behind_proxies, "192.0.2.9") == before + 2


@pytest.mark.once
def test_ipv6_clients_of_one_network_are_one(behind_proxies):
    first = spent(behind_proxies, "2001:db8:1:1::1")
    assert spent(behind_proxies, "[2001:db8:1:1::2]:443") == first + 1
    assert spent(behind_proxies, "2001:db8:1:2::1") == 1


@pytest.mark.once
def test_what_is_no_address_fails_nothing(behind_proxies):
    for value in ("unknown", "_hidden", "", ",", "[", "[::1", "1.2.3.4:x", "\xff"):
        assert spent(behind_proxies, value) >= 1, value
