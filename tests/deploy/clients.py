"""Clients that read and write without a break while something is restarted."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from uuid import uuid4


class Clients:
    """Readers and writers that keep their connections, and count the responses."""

    def __init__(
        self, port: int, headers: dict[str, str], pause_s: float = 0.2
    ) -> None:
        self.port, self.headers, self.pause_s = port, headers, pause_s
        self.seen: Counter[str] = Counter()
        self.ending = threading.Event()
        # Each search is new, so nginx has no response to it.
        read = lambda: ("GET", f"/api/v1/items?search={uuid4()}", None)  # noqa: E731
        write = lambda: ("POST", "/api/v1/items/", b'{"name": "Written"}')  # noqa: E731
        self.threads = [
            threading.Thread(target=self._run, args=[next_request])
            for next_request in [read] * 3 + [write] * 2
        ]
        for thread in self.threads:
            thread.start()

    def end(self) -> Counter[str]:
        self.ending.set()
        for thread in self.threads:
            thread.join(120)
        return self.seen

    def _run(self, next_request) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        headers = self.headers | {"Content-Type": "application/json"}
        while not self.ending.wait(self.pause_s):
            method, path, body = next_request()
            key = {"Idempotency-Key": str(uuid4())} if method == "POST" else {}
            # nginx closes idle connections when it is reloaded, maybe under a request
            # on its way: clients repeat what is safe to repeat (RFC 9110, 9.2.2).
            for is_last in (connection.sock is None, True):
                try:
                    connection.request(method, path, body, headers | key)
                    answer = connection.getresponse()
                    answer.read()
                    self.seen[f"{method} {answer.status}"] += 1
                    break
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    if is_last:
                        self.seen[f"{method} {error!r}"] += 1
                        break
        connection.close()
