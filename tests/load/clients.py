"""Clients of a running site, of all kinds, with counts of their responses."""

import contextlib
import http.client
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Self

from tests.running import Site

TIMEOUT_S = 30
ITEM = "/api/v1/items/country.DE"


class Clients:
    """Threads that each repeat one action until the end of the `with` block.

    A transport error or an unexpected status is a failure.
    """

    def __init__(self, site: Site, token: str) -> None:
        self.site = site
        self.headers = {"Authorization": f"Token {token}"}
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
            with suppress(OSError, AttributeError):  # it has ended
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)

    def run(self, step: Callable[..., None], *args: Any, number: int = 1) -> None:
        def loop() -> None:
            while not self._end.is_set():
                try:
                    step(*args)
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
        connection = http.client.HTTPConnection(
            self.site.host, self.site.port, timeout=TIMEOUT_S
        )
        with contextlib.closing(connection):
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

    def read(self, longest_pause_s: float = 0) -> None:
        """On one connection, until the server closes it."""
        with self._connection() as connection:
            while self._send(connection, ITEM) and not self._end.is_set():
                if longest_pause_s:
                    self.pause(random.uniform(0.1, longest_pause_s))

    def read_once(self) -> None:
        with self._connection() as connection:
            self._send(connection, ITEM, Connection="close")

    def search(self) -> None:
        """Send a search that hardly any cache has."""
        words = random.choice(["a", "island", "language", "north", "x"])
        size = random.randrange(1, 500)
        path = f"/api/v1/items?search={words}&page_size={size}"
        with self._connection() as connection:
            self._send(connection, path, (200, 503))

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

    def disconnect(self) -> None:
        """Disconnect in the middle of a response, of a request, and of its head."""
        head = b" HTTP/1.1\r\nHost: localhost\r\n"
        address = self.site.host, self.site.port
        for request in (
            b"GET /api/v1/items/-/export" + head + b"\r\n",
            b"POST /api/v1/items/" + head + b"Content-Length: 99\r\n\r\n{",
            b"GET /api/v1/items" + head,
        ):
            with socket.create_connection(address, TIMEOUT_S) as peer:
                peer.sendall(request)
                if b"export" in request:
                    peer.recv(1000)
        self.pause(0.1)

    def follow(self, job: str) -> None:
        """Read the stream of a job until it ends."""
        with self._connection() as connection:
            connection.request("GET", f"/api/v1/jobs/{job}/events", None, self.headers)
            response = connection.getresponse()
            with self._lock:
                self.streams += 1
                self.answers[response.status] += 1
                self._streams.add(connection)
            while not self._end.is_set() and response.read1(4096):
                pass
            self._streams.discard(connection)
