"""Look-ups of host names with a timeout, which the system's resolver does not have.

Each look-up runs in a thread. While the resolver does not answer, the last address of
the name is used. What is not handled: a thread whose look-up hangs is not ended.
"""

import os
import socket
import threading
from concurrent.futures import Future
from typing import Any

type Address = tuple[Any, ...]
type Name = tuple[str, int]  # host and port


class Resolver:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[Name, list[Address]] = {}
        self._pending: dict[Name, Future[list[Address]]] = {}

    def resolve(self, host: str, port: int, timeout_s: float) -> list[Address]:
        """Return the addresses found within the timeout, or else those found before.

        Raises OSError if the look-up fails, and TimeoutError.
        """
        try:
            return self._look_up(host, port).result(timeout_s)
        except TimeoutError:
            if (host, port) not in self._found:
                raise
            return self._found[host, port]

    def _look_up(self, host: str, port: int) -> Future[list[Address]]:
        """Return the look-up of this name; one runs at a time."""
        with self._lock:
            pending = self._pending.get((host, port))
            if pending is None:
                pending = self._pending[host, port] = Future()
                arguments = (host, port, pending)
                threading.Thread(target=self._run, args=arguments, daemon=True).start()
            return pending

    def _run(self, host: str, port: int, pending: Future[list[Address]]) -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [(family, address) for family, _, _, _, address in rows]
            self._found[host, port] = found
        except (OSError, UnicodeError) as error:
            self._remove(host, port)
            pending.set_exception(error)
        else:
            self._remove(host, port)
            pending.set_result(found)

    def _remove(self, host: str, port: int) -> None:
        """Have the next caller start a new look-up."""
        with self._lock:
            self._pending.pop((host, port), None)


resolver = Resolver()
os.register_at_fork(after_in_child=resolver.reset)
