"""Clients of a running site, of all kinds, with counts of their responses."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

from tests.running import Site

TIMEOUT_S = 30
ITEM = "/api/v1/items/country.DE"
HEAD = b" HTTP/1.1\r\nHost: localhost\r\n"


class Clients:
    """Threads that each repeat one action until the end of the `with` block.

    A transport error or an unexpected status is a failure.
    """

    def __init__(self, site: Site, token: str = "") -> None:
        self.site = site
        self.headers = {"Authorization": f"Token {token}"} if token else {}
        self.failures: list[str] = []
        self.answers: Counter[int] = Counter()
        self.streams = 0
        self._end = threading.Event()
        self._streams: set[http.client.HTTPConnection] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for connection in list(self._streams):
            with contextlib.suppress(OSError, AttributeError):  # it has ended
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)

    def run(self, step: Callable[[], None], number: int = 1) -> None:
        def loop() -> None:
            while not self._end.is_set():
                try:
                    step()
                except (OSError, http.client.HTTPException) as error:
                    # At the end, a stream that was closed here.
                    if not self._end.is_set():
                        self.failures.append(f"{step.__name__}: {error!r}")

        for _ in range(number):
            thread = threading.Thread(target=loop, daemon=True)
            thread.start()
            self._threads.append(thread)

    def pause(self, seconds: float) -> None:
        self._end.wait(seconds)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        address = self.site.host, self.site.port
        with contextlib.closing(
            http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
        ) as connection:
            yield connection

    def _send(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        expected: tuple[int, ...] = (200,),
        method: str = "GET",
        body: bytes | None = None,
        **headers: str,
    ) -> bool:
        """Return whether the connection can be used again."""
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        with self._lock:
            self.answers[response.status] += 1
        if response.status not in expected:
            text = f"{method} {path}: {response.status} {content[:300]!r}"
            self.failures.append(text)
        return response.getheader("Connection") != "close"

    # --- actions

    def read_keep_alive(self, longest_pause_s: float = 0) -> None:
        """On one connection, until the server closes it."""
        with self._connection() as connection:
            while self._send(connection, ITEM) and not self._end.is_set():
                if longest_pause_s:
                    self.pause(random.uniform(0.1, longest_pause_s))

    def read_with_pauses(self) -> None:
        """On one connection that is mostly idle."""
        self.read_keep_alive(0.5)

    def read_once(self) -> None:
        with self._connection() as connection:
            self._send(connection, ITEM, Connection="close")

    def search(self) -> None:
        """Send searches that no cache has."""
        with self._connection() as connection:
            for _ in range(20):
                words = random.choice(["a", "island", "language", "north", "x"])
                number = random.randrange(10**9)
                path = f"/api/v1/items?search={words}&page_size=10&none={number}"
                if not self._send(connection, path, (200, 503)):
                    return

    def write(self) -> None:
        with self._connection() as connection:
            name = f"Soak {random.randrange(10**9)}"
            body = json.dumps({"name": name, "description": "d" * 500}).encode()
            self._send(
                connection, "/api/v1/items/", (201, 503), "POST", body,
                **self.headers, **{"Content-Type": "application/json"},
            )  # fmt: skip

    def send_invalid(self) -> None:
        unknown = {"Authorization": f"Token {random.random()}"}
        # Under load a read may get a stale response.
        for path, headers, statuses in (
            (f"/api/v1/items/none-{random.random()}", {}, (404, 503)),
            ("/api/v1/items", unknown, (401, 200, 503)),
            ("/api/v1/items?cursor=broken", {}, (400, 503)),
            ("/api/v1/items", {"X-Long": "x" * 60_000}, (200, 503)),
        ):
            with self._connection() as connection:
                self._send(connection, path, statuses, **headers)
        self.pause(0.05)

    def drip(self) -> None:
        """Send a request head byte by byte, until the server closes."""
        with self._socket() as peer, contextlib.suppress(ConnectionError):
            for byte in b"GET " + ITEM.encode() + HEAD + b"X: " + b"y" * 10_000:
                if self._end.is_set():
                    return
                peer.sendall(bytes([byte]))
                self.pause(0.05)

    def disconnect(self) -> None:
        """Disconnect in the middle of a response, and of a request."""
        with self._socket() as peer:
            peer.sendall(b"GET /api/v1/items/export" + HEAD + b"\r\n")
            peer.recv(1000)
        with self._socket() as peer:
            peer.sendall(b"POST /api/v1/items/" + HEAD + b"Content-Length: 99\r\n\r\n{")
        self.pause(0.1)

    def watch(self, job: str) -> Callable[[], None]:
        def follow() -> None:
            """Read a stream until it ends, then reconnect."""
            with self._connection() as connection:
                path = f"/api/v1/jobs/{job}/events"
                connection.request("GET", path, headers=self.headers)
                response = connection.getresponse()
                with self._lock:
                    self.streams += 1
                    self.answers[response.status] += 1
                    self._streams.add(connection)
                while not self._end.is_set() and response.read1(4096):
                    pass
                self._streams.discard(connection)

        return follow

    def _socket(self) -> socket.socket:
        return socket.create_connection((self.site.host, self.site.port), TIMEOUT_S)
