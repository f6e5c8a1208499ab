"""Names of hosts, looked up in threads: the resolver of the system knows no timeout.

While it does not answer, what was true a while ago does.
"""

import os
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

RESOLVE_AGAIN_S = 30.0

type Address = tuple[Any, ...]


class Resolver:
    """Looks names up, and remembers what it found."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._asked: dict[tuple[str, int], Future[list[Address]]] = {}

    def addresses(self, host: str, port: int, wait_s: float | None) -> list[Address]:
        """Return what is known, or else what is found within `wait_s`.

        Raises OSError, and TimeoutError.
        """
        try:
            return _look_up(host, port, socket.AI_NUMERICHOST)
        except socket.gaierror:  # a name
            at, known = self._found.get((host, port), (0.0, []))
        if known and time.monotonic() - at < RESOLVE_AGAIN_S:
            return known
        asked = self._ask(host, port)
        return known or _result(asked, host, wait_s)

    def current(self, host: str, port: int, wait_s: float) -> list[Address]:
        """Return what is found within `wait_s`, or else what is known. Raises alike."""
        asked = self._ask(host, port)
        try:
            return _result(asked, host, wait_s)
        except TimeoutError:
            if (host, port) not in self._found:
                raise
            return self._found[host, port][1]

    def _ask(self, host: str, port: int) -> Future[list[Address]]:
        with self._lock:
            asked = self._asked.get((host, port))
            if asked is None:
                asked = self._asked[host, port] = Future()
                arguments = (host, port, asked)
                threading.Thread(
                    target=self._resolve, args=arguments, daemon=True
                ).start()
            return asked

    def _resolve(self, host: str, port: int, asked: Future[list[Address]]) -> None:
        try:
            found = _look_up(host, port)
            self._found[host, port] = time.monotonic(), found
        except (OSError, UnicodeError) as error:
            self._forget(host, port)
            asked.set_exception(error)
        else:
            self._forget(host, port)
            asked.set_result(found)

    def _forget(self, host: str, port: int) -> None:
        """Let the next one look anew."""
        with self._lock:
            self._asked.pop((host, port), None)


def _result(
    asked: Future[list[Address]], host: str, wait_s: float | None
) -> list[Address]:
    try:
        return asked.result(wait_s)
    except TimeoutError:
        raise TimeoutError(f"The name {host} is not resolved yet") from None


def _look_up(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


resolver = Resolver()
os.register_at_fork(after_in_child=resolver.reset)
