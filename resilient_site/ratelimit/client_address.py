"""The address that a client is counted under.

Uvicorn has put the client's address into REMOTE_ADDR: that of the connection, or,
where the connection comes from a proxy in FORWARDED_ALLOW_IPS, the rightmost address in
X-Forwarded-For that is not such a proxy. A client cannot choose it by any header.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from django.http import HttpRequest

# One customer of a network usually gets all addresses of such a prefix.
IPV6_PREFIX = 64


def client_address(request: HttpRequest) -> str | None:
    """Return the client's IPv4 address or IPv6 network; None over a Unix socket."""
    return _normalize(request.META.get("REMOTE_ADDR") or "")


@lru_cache(4096)
def _normalize(text: str) -> str | None:
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
