"""Connections to Redis that keep to a budget of time, from the name to the last byte.

Socket timeouts alone bound one read: a connect has several, a server that drips has any
number, and the resolver of names knows none. Here the caller's thread has a deadline,
and every step waits for what is left until then.
"""

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.core.cache.backends.base import BaseCache
from django_redis.client import DefaultClient
from django_redis.pool import ConnectionFactory
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from resilient_site.cache.budget import remaining_s
from resilient_site.cache.dns import resolver


class BudgetedSocket:
    """A socket that waits no longer than its thread's question may take."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(remaining_s())
        self._raw.sendall(data)

    def recv(self, *args: Any) -> bytes:
        self._raw.settimeout(remaining_s())
        return self._raw.recv(*args)

    def recv_into(self, *args: Any) -> int:
        self._raw.settimeout(remaining_s())
        return self._raw.recv_into(*args)


class BudgetedConnection(Connection):
    def _connect(self) -> Any:
        addresses = resolver.addresses(self.host, self.port, remaining_s())
        later = len(addresses)
        for family, address in addresses:
            later -= 1
            raw = socket.socket(family, socket.SOCK_STREAM)
            try:
                left = remaining_s()
                raw.settimeout(left and left / (later + 1))
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                raw.connect(address)
                raw.settimeout(remaining_s())
                return self._wrap(raw)
            except OSError:
                raw.close()
                if not later:
                    raise
        raise OSError("The name has no address")

    def _wrap(self, raw: socket.socket) -> Any:
        return BudgetedSocket(raw)


class BudgetedSSLConnection(SSLConnection, BudgetedConnection):
    def _wrap(self, raw: socket.socket) -> Any:
        return raw  # TLS comes first

    def _connect(self) -> Any:
        return BudgetedSocket(super()._connect())  # type: ignore[no-untyped-call]


class BudgetedUnixConnection(UnixDomainSocketConnection):
    def _connect(self) -> Any:
        return BudgetedSocket(super()._connect())  # type: ignore[no-untyped-call]


CONNECTIONS = {
    "rediss": BudgetedSSLConnection,
    "unix": BudgetedUnixConnection,
}


class BudgetedFactory(ConnectionFactory):  # type: ignore[misc]
    """django-redis's factory, with these connections and a pool per set of options."""

    _pools: dict[str, Any] = {}

    def get_or_create_connection_pool(self, params: dict[str, Any]) -> Any:
        key = repr(sorted((name, str(value)) for name, value in params.items()))
        if key not in self._pools:
            self._pools[key] = self.get_connection_pool(params)
        return self._pools[key]

    def get_connection_pool(self, params: dict[str, Any]) -> Any:
        scheme = urlsplit(params["url"]).scheme
        # Each step of a handshake is a round trip: nothing beyond what is needed.
        self.pool_cls_kwargs = {
            "connection_class": CONNECTIONS.get(scheme, BudgetedConnection),
            "protocol": 2,
            "driver_info": None,
        }
        return super().get_connection_pool(params)


def connector(url: str, budget_s: float) -> Callable[[], Any]:
    """Return what connects to this Redis, each step of it within `budget_s`."""
    options = {
        "CONNECTION_FACTORY": f"{__name__}.{BudgetedFactory.__name__}",
        "SOCKET_CONNECT_TIMEOUT": budget_s,
        "SOCKET_TIMEOUT": budget_s,
    }
    client = DefaultClient(url, {"OPTIONS": options}, BaseCache({}))
    connect: Callable[[], Any] = client.get_client
    return connect
