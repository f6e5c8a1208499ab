"""Addresses of clients, as limits count them."""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

# One customer of a network usually gets all addresses of such a prefix.
IPV6_PREFIX = 64


@lru_cache(4096)
def normalize_address(text: str) -> str | None:
    """Return what of an address stands for one client; None if it is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and not address.ipv4_mapped:
        network = IPv6Network((int(address), IPV6_PREFIX), strict=False)
        return str(network.network_address)
    return str(getattr(address, "ipv4_mapped", None) or address)
