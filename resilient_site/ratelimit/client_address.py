"""Whose request it is, as far as the network can tell.

Uvicorn has put the client's address into REMOTE_ADDR: the connection's own, or, where
that is a proxy named in FORWARDED_ALLOW_IPS, the rightmost address in X-Forwarded-For
that is no such proxy. No client can choose it, whatever headers he sends.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from django.http import HttpRequest

# What one customer of a network usually gets, to use any address of.
IPV6_PREFIX = 64


def client_address(request: HttpRequest) -> str | None:
    """Return the client's IPv4 address or IPv6 network; None over a Unix socket."""
    return _group(request.META.get("REMOTE_ADDR") or "")


@lru_cache(4096)
def _group(text: str) -> str | None:
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    network = IPv6Network((int(address), IPV6_PREFIX), strict=False)
    return str(network.network_address)
