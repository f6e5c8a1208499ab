"""Readers who come at a fixed rate, whether or not the site keeps up (an open loop).

A request counts from the moment at which it was due, so that a site that stands still
for a second is charged with all who had to wait, not with the one who found out.
"""

import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

CONNECTIONS = 8


def come_first() -> None:
    """Let nothing else delay this process: its readers stand for other machines.

    The kernel may weigh sessions before it weighs the processes of each.
    """
    os.setsid()
    with suppress(OSError):  # for root alone
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        Path("/proc/self/autogroup").write_text("-10")


class Reader:
    """One connection that is kept, and what is read over it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> None:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head, _, body = self._receive(b"").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body = self._receive(body)

    def _receive(self, before: bytes) -> bytes:
        received = self.socket.recv(65536)
        assert received, "The site closed the connection."
        return before + received


def latencies(
    port: int, paths: Sequence[str], per_second: float, seconds: float
) -> list[float]:
    """Return the milliseconds that each answer took."""
    number = int(per_second * seconds)
    begin = time.perf_counter() + 0.1
    numbers = count()  # next() of it is whole, also between threads
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        work = [
            threads.submit(_read, port, paths, numbers, number, begin, per_second)
            for _ in range(CONNECTIONS)
        ]
        return [took for future in work for took in future.result()]


def _read(port, paths, numbers, number, begin, per_second) -> list[float]:
    reader, took = Reader(port), []
    while (n := next(numbers)) < number:
        due = begin + n / per_second
        time.sleep(max(0, due - time.perf_counter()))
        reader.get(paths[n % len(paths)])
        took.append((time.perf_counter() - due) * 1000)
    return took
